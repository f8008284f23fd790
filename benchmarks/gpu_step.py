"""The full-size training step on one GPU: ViT-L/14 teacher, MobileCLIP2-S0 student, bf16, batch 512.

Eager with a live teacher and the authors' loss, against ours: live, and from kept teacher embeddings. Ours runs
compiled towers, channels-last images, fused AdamW and the fused loss; batches come from pinned memory without
waiting. Images and texts are random, so the figures are those of the step and not of the disk. Without a GPU
it says so and writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._material import published_student, published_teacher
from benchmarks._record import Row, command, interleave, make_row
from benchmarks.baselines.loss_authors import srkd_loss
from datamodules.protocol import Protocol
from losses import Embeddings, SRKDLoss
from models import DualEncoder, freeze
from models.zero_shot import age_embeddings

PEAK_TFLOPS = {"H100": 790.0, "H200": 790.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
"""Dense bf16 matrix products: H100 and H200 as measured on large products, others from NVIDIA's data sheets."""
TARGETS = {"live": 1.5, "teacher cache": 3.0}
STEPS = 8

Batch = dict[str, Tensor]


def host_batch(B: int, student: DualEncoder, teacher: DualEncoder) -> Batch:
    """Return random images and equally long texts in pinned memory."""
    text = ["fetal head at 24 weeks and 3 days, pixel spacing 0.12 mm"] * B
    batch = {"embedding": torch.nn.functional.normalize(torch.randn(B, 2, teacher.embed_dim), dim=-1)}
    for role, model in (("student", student), ("teacher", teacher)):
        side = model.preprocessing.image_size
        batch[f"{role}_image"] = torch.randn(B, 3, side, side)
        batch[f"{role}_tokens"] = model.tokenize(text)
    return {name: value.pin_memory() for name, value in batch.items()}


def authors_step(student: DualEncoder, teacher: DualEncoder, batch: Batch) -> Callable[[], None]:
    """Eager, both models at each step, blocking copies, their loss."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=False, foreach=True)

    def step() -> None:
        on = {name: value.to("cuda") for name, value in batch.items() if name != "embedding"}
        with torch.autocast("cuda", torch.bfloat16):
            own = (*student(on["student_image"], on["student_tokens"]), student.logit_scale)
            with torch.no_grad():
                taught = (*teacher(on["teacher_image"], on["teacher_tokens"]), teacher.logit_scale)
        optimizer.zero_grad(set_to_none=True)
        srkd_loss(own, taught).backward()
        optimizer.step()

    return lambda: [step() for _ in range(STEPS)] and None


def our_step(student: DualEncoder, teacher: DualEncoder, batch: Batch, cached: bool) -> Callable[[], None]:
    """Compiled towers, channels-last, fused optimiser and loss, copies that nobody waits for."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    loss = SRKDLoss()
    compiled = torch.compile(student)
    taught_by = torch.compile(teacher)
    wanted = [name for name in batch if name.startswith("student") or (name == "embedding") == cached]

    def copy() -> Batch:
        on = {name: batch[name].to("cuda", non_blocking=True) for name in wanted}
        return {
            name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for name, value in on.items()
        }

    def step(on: Batch) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            image, text = compiled(on["student_image"], on["student_tokens"])
            with torch.no_grad():
                taught = (
                    on["embedding"].unbind(dim=1)
                    if cached
                    else taught_by(on["teacher_image"], on["teacher_tokens"])
                )
        total = loss(
            Embeddings(image.float(), text.float(), student.logit_scale),
            Embeddings(taught[0].float(), taught[1].float(), teacher.logit_scale),
        )["total"]
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    def steps() -> None:
        following = copy()
        for number in range(STEPS):
            current = following
            if number + 1 < STEPS:
                following = copy()
            step(current)

    return steps


def step_flops(student: DualEncoder, teacher: DualEncoder | None, batch: Batch) -> float:
    """Count the floating-point operations of one step's towers."""
    from torch.utils.flop_counter import FlopCounterMode

    few = {name: value[:4].to("cuda") for name, value in batch.items()}
    with FlopCounterMode(display=False) as counter:
        image, text = student(few["student_image"], few["student_tokens"])
        (image.sum() + text.sum()).backward()
        if teacher is not None:
            with torch.no_grad():
                teacher(few["teacher_image"], few["teacher_tokens"])
    return counter.get_total_flops() / 4 * len(batch["student_image"])


def card_peak() -> float | None:
    name = torch.cuda.get_device_name()
    return next((peak for key, peak in PEAK_TFLOPS.items() if key in name), None)


def validity_row(student: DualEncoder) -> Row:
    """Time the text side of HC18's validity: 77 spacings of all ages, with five templates."""
    templates = (Protocol.load().biometry * 3)[:5]
    distinct = [f"{template} {'.' * i}" for i, template in enumerate(templates)]
    printed = [f"{0.2 + i / 100:.2f}" for i in range(77)]
    student.eval()
    with torch.autocast("cuda", torch.bfloat16):
        times = interleave({"ours": lambda: age_embeddings(student, distinct, printed)}, 3, "cuda")
    student.train()
    return make_row(
        "HC18 validity", "student on the GPU, 77 spacings, 875 prompts each", "s an epoch", times["ours"],
        target=10.0, better="lower", seconds=times,
    )  # fmt: skip


def rows(quick: bool) -> list[Row]:
    B, rounds = (8, 2) if quick else (512, 7)
    student, ours_student, teacher = (
        model.cuda()
        for model in (published_student(quick), published_student(quick), published_teacher(quick))
    )
    ours_student.to(memory_format=torch.channels_last)
    frozen = freeze(teacher)
    student.train(), ours_student.train()
    batch = host_batch(B, student, teacher)
    ways = {
        "authors": authors_step(student, frozen, batch),
        "live": our_step(ours_student, frozen, batch, cached=False),
        "teacher cache": our_step(ours_student, frozen, batch, cached=True),
    }
    times = {name: values / STEPS for name, values in interleave(ways, rounds, "cuda").items()}
    peak = card_peak()
    found = []
    for name, target in TARGETS.items():
        flops = step_flops(ours_student, frozen if name == "live" else None, batch)
        reached = flops / float(np.median(times[name])) / 1e12
        share = f"; {reached / peak:.0%} of {peak:g} TFLOP/s" if peak else ""
        row = make_row(
            "GPU step", f"full size, bf16, batch {B}, {name}", "times the samples/s of eager, live, their loss",
            times["authors"] / times[name], target=target, seconds=times, limit="the card's matrix products",
            limit_values=None if peak is None else [peak / reached],
            note=f"{torch.cuda.get_device_name()}; {reached:.0f} TFLOP/s in the towers{share}",
        )  # fmt: skip
        found.append(row)
    return [*found, validity_row(ours_student)]


def measure(quick: bool) -> list[Any]:
    if not torch.cuda.is_available():
        print("gpu_step: skipped, this machine has no CUDA device; nothing is written")
        sys.exit(0)
    return rows(quick)


if __name__ == "__main__":
    command("gpu_step", measure, __doc__)
