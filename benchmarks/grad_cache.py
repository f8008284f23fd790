"""The gradient cache: time and peak memory of forward and backward in chunks, beside the joint batch.

Both ways give the gradients of the joint batch. Peak memory counts what torch allocates during the step, gradients
included, weights and inputs not. Teacher embeddings are ready, as from the teacher cache.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks._material import phantom_towers
from benchmarks._record import Row, interleave, peak_numbers
from lightning_modules import DistillationModule
from losses import SRKDLoss


def make_step(B: int, chunk: int | None) -> Callable[[], None]:
    """Return one training step, without the optimiser, on B random pairs."""
    student, teacher = phantom_towers()
    module = DistillationModule(student, teacher, SRKDLoss(), grad_cache_chunk=chunk).train()
    side = student.preprocessing.image_size
    batch = {
        "student_image": torch.randn(B, 3, side, side),
        "student_tokens": student.tokenize(["fetal head at 24 weeks and 3 days, pixel spacing 0.12 mm"] * B),
        "teacher_embedding": torch.nn.functional.normalize(torch.randn(B, 2, teacher.embed_dim), dim=-1),
    }

    def step() -> None:
        module.compute_loss(batch)["total"].backward()
        module.zero_grad()  # last, so that the peak of a step includes its gradients

    return step


def measure(quick: bool) -> list[Row]:
    B, chunk, rounds = (8, 4, 1) if quick else (128, 16, 3)
    ways = {"joint batch": make_step(B, None), "in chunks": make_step(B, chunk)}
    seconds = interleave(ways, rounds)
    peak = {name: 4e-6 * peak_numbers(run) for name, run in ways.items()}
    case = f"phantom's student, batch {B} in chunks of {chunk}"
    told = ", ".join(f"{megabytes:.0f} MB {name}" for name, megabytes in peak.items())
    return [
        Row(
            "gradient cache", case, "times the joint batch's time", seconds["in chunks"] / seconds["joint batch"],
            better="lower", seconds=seconds, note=f"one more forward pass; threads: {torch.get_num_threads()}",
        ),
        Row(
            "gradient cache", case, "of the joint batch's peak memory", [peak["in chunks"] / peak["joint batch"]],
            better="lower", note=told,
        ),
    ]  # fmt: skip
