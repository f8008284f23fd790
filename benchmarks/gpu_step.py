"""The full-size training step on one GPU: ViT-L/14 teacher, MobileCLIP2-S0 student, bf16, batch 512.

The baseline is eager with a live teacher and the authors' loss. Ours is `DistillationModule` with ``compile``:
compiled models over channels-last maps, fused AdamW and the fused loss, batches from pinned memory; once with a live
teacher and once from kept teacher embeddings. Images and texts are random: no disk is involved. HC18's validity is
timed as `BiometryEvaluation` computes it, in float32 and with ``full_precision: false``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._authors import srkd_loss
from benchmarks._material import Towers, published_towers
from benchmarks._record import Row, interleave
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
CASE, STEP = "full size, bf16, batch", "times the samples/s of eager, live, their loss"
VALIDITY = "HC18 validity", "student on the GPU, 77 spacings, 875 prompts each, float32", "s an epoch"

Batch = dict[str, Tensor]


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

    def step(*left_out: str) -> None:
        on = {k: v.to(DEVICE, non_blocking=True) for k, v in batch.items() if k not in left_out}
        with torch.autocast(DEVICE, torch.bfloat16):
            total = module.compute_loss(on)["total"]
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        module.student.clamp_logit_scale(module.max_logit_scale)

    cached = partial(step, "teacher_image", "teacher_tokens")
    return {"live": partial(step, "teacher_embedding"), "teacher cache": cached}


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


def validity_rows(student: DualEncoder) -> list[Row]:
    """Time the text side of HC18's validity: all ages at 77 spacings, with five templates."""
    templates = [f"{template} {'.' * i}" for i, template in enumerate((Protocol.load().biometry * 3)[:5])]
    printed = [f"{0.2 + i / 100:.2f}" for i in range(77)]
    found = []
    for full, target in ((True, 10.0), (False, None)):
        with evaluation_mode(student, full, torch.bfloat16) as used:
            times = interleave({"ours": partial(age_embeddings, used, templates, printed)}, 3)
        case = VALIDITY[1] if full else VALIDITY[1].replace("float32", "bf16 (full_precision: false)")
        found.append(Row(VALIDITY[0], case, VALIDITY[2], times["ours"], target, "lower", seconds=times))
    return found


def step_rows(theirs: Towers, ours: Towers, B: int, rounds: int) -> list[Row]:
    """Time the step of two pairs of student and teacher of the same architectures."""
    batch = host_batch(B, *ours)
    teacher = freeze(theirs[1])
    steps = {
        "authors": authors_step(theirs[0].train(), teacher, batch),
        **our_steps(ours[0], freeze(ours[1]), batch),
    }
    repeated = {name: lambda step=step: [step() for _ in range(STEPS)] for name, step in steps.items()}
    times = {name: values / STEPS for name, values in interleave(repeated, rounds).items()}
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    peak = next((peak for name, peak in PEAK_TFLOPS.items() if name in card), None)
    found = []
    for name, target in TARGETS.items():
        tflop = step_tflop(theirs[0], teacher if name == "live" else None, batch)
        reached = tflop / float(np.median(times[name]))
        share = f"; {reached / peak:.0%} of {peak:g} TFLOP/s" if peak else ""
        row = Row(
            "GPU step", f"{CASE} {B}, {name}", STEP, times["authors"] / times[name], target, seconds=times,
            limit="the card's matrix products", times_limit=[peak / reached] if peak else [],
            note=f"{reached:.0f} TFLOP/s in the towers{share}",
        )  # fmt: skip
        found.append(row)
    return found


def measure(quick: bool) -> list[Row]:
    B, rounds = (8, 2) if quick else (512, 3)
    if not torch.cuda.is_available():
        why = "this machine has no CUDA device"
        steps = [
            Row("GPU step", f"{CASE} {B}, {n}", STEP, [], goal, reason=why) for n, goal in TARGETS.items()
        ]
        return [*steps, Row(*VALIDITY, [], 10.0, "lower", reason=why)]
    theirs, ours = (tuple(model.cuda() for model in published_towers(quick)) for _ in range(2))
    return [*step_rows(theirs, ours, B, rounds), *validity_rows(ours[0])]
