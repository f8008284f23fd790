"""The full-size training step on one GPU: ViT-L/14 teacher, MobileCLIP2-S0 student, bf16, batch 512.

The baseline is eager with a live teacher and the authors' loss. Ours is `DistillationModule` with ``compile``:
compiled models over channels-last maps, fused AdamW and the fused loss, batches from pinned memory; once with a live
teacher and once from kept teacher embeddings. Images and texts are random: no disk is involved. HC18's validity is
timed as `BiometryEvaluation` computes it, in float32 and with ``full_precision: false``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._material import published_student, published_teacher
from benchmarks._record import Row, command, interleave, make_row, not_run
from benchmarks.baselines.loss_authors import srkd_loss
from callbacks.evaluation.evaluation_mode import evaluation_mode
from datamodules.evaluation.protocol import Protocol
from lightning_modules import DistillationModule
from losses import SRKDLoss
from models import DualEncoder, freeze
from models.zero_shot import age_embeddings

# Dense bf16 matrix products, TFLOP/s: H100 and H200 as measured on large products, others from NVIDIA's data sheets.
PEAK_TFLOPS = {"H100": 790.0, "H200": 790.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
TARGETS = {"live": 1.5, "teacher cache": 3.0}
STEPS = 8
DEVICE, COMPILE = "cuda", True
STEP = "times the samples/s of eager, live, their loss"
VALIDITY = ("student on the GPU, 77 spacings, 875 prompts each", "s an epoch")

Batch = dict[str, Tensor]
Pair = tuple[DualEncoder, DualEncoder]


def host_batch(B: int, student: DualEncoder, teacher: DualEncoder) -> Batch:
    """Return random images and equally long texts in pinned memory."""
    text = ["fetal head at 24 weeks and 3 days, pixel spacing 0.12 mm"] * B
    batch = {"teacher_embedding": torch.nn.functional.normalize(torch.randn(B, 2, teacher.embed_dim), dim=-1)}
    for role, model in (("student", student), ("teacher", teacher)):
        side = model.preprocessing.image_size
        batch[f"{role}_image"] = torch.randn(B, 3, side, side)
        batch[f"{role}_tokens"] = model.tokenize(text)
    return {name: value.pin_memory() for name, value in batch.items()} if DEVICE == "cuda" else batch


def authors_step(student: DualEncoder, teacher: DualEncoder, batch: Batch) -> Callable[[], None]:
    """Return the baseline's step: eager, both models, blocking copies, their loss."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=False, foreach=True)

    def step() -> None:
        on = {name: value.to(DEVICE) for name, value in batch.items() if name != "teacher_embedding"}
        with torch.autocast(DEVICE, torch.bfloat16):
            own = (*student(on["student_image"], on["student_tokens"]), student.logit_scale)
            with torch.no_grad():
                taught = (*teacher(on["teacher_image"], on["teacher_tokens"]), teacher.logit_scale)
        optimizer.zero_grad(set_to_none=True)
        srkd_loss(own, taught).backward()
        optimizer.step()

    return step


def our_steps(student: DualEncoder, teacher: DualEncoder, batch: Batch) -> dict[str, Callable[[], None]]:
    """Return the module's step with a live teacher and with kept embeddings, with asynchronous copies."""
    module = DistillationModule(student, teacher, SRKDLoss(), compile=COMPILE).train()
    plan: Any = SimpleNamespace(precision="bf16-mixed", estimated_stepping_batches=10_000)
    module.trainer = plan
    optimizer = module.configure_optimizers()["optimizer"]

    def step(left_out: tuple[str, ...]) -> None:
        on = {k: v.to(DEVICE, non_blocking=True) for k, v in batch.items() if k not in left_out}
        with torch.autocast(DEVICE, torch.bfloat16):
            total = module.compute_loss(on)["total"]
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        module.student.clamp_logit_scale(module.max_logit_scale)

    return {
        "live": lambda: step(("teacher_embedding",)),
        "teacher cache": lambda: step(("teacher_image", "teacher_tokens")),
    }


def step_tflop(student: DualEncoder, teacher: DualEncoder | None, batch: Batch) -> float:
    """Count the 10^12 floating-point operations of one step's towers."""
    few = {name: value[:4].to(DEVICE) for name, value in batch.items()}
    with FlopCounterMode(display=False) as counter:
        image, text = student(few["student_image"], few["student_tokens"])
        (image.sum() + text.sum()).backward()
        if teacher is not None:
            with torch.no_grad():
                teacher(few["teacher_image"], few["teacher_tokens"])
    return counter.get_total_flops() / 4e12 * len(batch["student_image"])


def validity_rows(student: DualEncoder, spacings: int = 77) -> list[Row]:
    """Time the text side of HC18's validity: all ages at 77 spacings, with five templates."""
    templates = (Protocol.load().biometry * 3)[:5]
    distinct = [f"{template} {'.' * i}" for i, template in enumerate(templates)]
    printed = [f"{0.2 + i / 100:.2f}" for i in range(spacings)]
    found = []
    for full, precision in ((True, "float32"), (False, "bf16 (full_precision: false)")):
        with evaluation_mode(student, full, torch.bfloat16) as used:
            times = interleave({"ours": lambda m=used: age_embeddings(m, distinct, printed)}, 3, DEVICE)
        case, unit = f"{VALIDITY[0]}, {precision}", VALIDITY[1]
        target = 10.0 if full else None
        row = make_row(
            "HC18 validity", case, unit, times["ours"], target=target, better="lower", seconds=times
        )
        found.append(row)
    return found


def step_rows(theirs: Pair, ours: Pair, B: int, rounds: int) -> list[Row]:
    """Time the step of two pairs of student and teacher of the same architectures."""
    batch = host_batch(B, *ours)
    teacher = freeze(theirs[1])
    ways = {
        "authors": authors_step(theirs[0].train(), teacher, batch),
        **our_steps(ours[0], freeze(ours[1]), batch),
    }
    repeated = {name: lambda step=step: [step() for _ in range(STEPS)] for name, step in ways.items()}
    times = {name: values / STEPS for name, values in interleave(repeated, rounds, DEVICE).items()}
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    peak = next((peak for name, peak in PEAK_TFLOPS.items() if name in card), None)
    found = []
    for name, target in TARGETS.items():
        tflop = step_tflop(theirs[0], teacher if name == "live" else None, batch)
        reached = tflop / float(np.median(times[name]))
        share = f"; {reached / peak:.0%} of {peak:g} TFLOP/s" if peak else ""
        row = make_row(
            "GPU step", case(name, B), STEP, times["authors"] / times[name], target=target, seconds=times,
            limit="the card's matrix products", limit_values=None if peak is None else [peak / reached],
            note=f"{reached:.0f} TFLOP/s in the towers{share}",
        )  # fmt: skip
        found.append(row)
    return found


def case(name: str, B: int) -> str:
    return f"full size, bf16, batch {B}, {name}"


def measure(quick: bool) -> list[Row]:
    B, rounds = (8, 2) if quick else (512, 3)
    if not torch.cuda.is_available():
        why = "this machine has no CUDA device"
        steps = [not_run("GPU step", case(name, B), STEP, why, target) for name, target in TARGETS.items()]
        return [*steps, not_run("HC18 validity", f"{VALIDITY[0]}, float32", VALIDITY[1], why, 10.0, "lower")]
    pairs = [(published_student(quick).cuda(), published_teacher(quick).cuda()) for _ in range(2)]
    return [*step_rows(*pairs, B, rounds), *validity_rows(pairs[1][0])]


if __name__ == "__main__":
    command("gpu_step", measure, __doc__)
