"""Time and memory of the SRKD loss, forward and backward, against the way that the authors describe.

The limit is the time of the matrix products that a form cannot avoid: four, and six for the chunked form, which
computes both logits twice. Peak memory counts what torch allocates during forward and backward, gradients included, in
units of B x B numbers. One row compares the default kernel with the plain form beside a process that keeps every core
busy, as a training beside it would.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks._authors import srkd_loss
from benchmarks._record import Row, interleave, peak_numbers
from losses import Embeddings, SRKDLoss

STUDENT_DIM, TEACHER_DIM = 512, 768
LOGIT_SCALE = 100.0
KERNELS = ("fused", "chunked")
COMPILED = "compiled plain form"
PRODUCTS = {"fused": "four", "chunked": "six"}
NOISE = 3.0, 2.0  # between the embeddings of a pair, student's and teacher's: pairs still hard to match
TARGETS = {"fused": {512: 4.5, 1024: 6.0, 2048: 7.0, 4096: 8.0}, "chunked": {4096: 4.0}}
MEMORY_TARGETS = {"fused": 2.6, "chunked": 0.8}


def make_pair(B: int, D: int, noise: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return correlated unit-length image and text embeddings [B, D]: the same numbers in every precision, rounded."""
    image = torch.randn(B, D, dtype=torch.float64)
    text = image + noise * torch.randn(B, D, dtype=torch.float64)
    return normalize(image, dim=1).to(dtype), normalize(text, dim=1).to(dtype)


def make_ways(
    B: int, dtype: torch.dtype = torch.float32, device: str = "cpu", backend: str | None = None
) -> dict[str, Callable[[], Any]]:
    """Return the ways to compute the loss and its gradients, and its products, as functions without arguments.

    Args:
        B: Pairs.
        dtype: Precision of the embeddings.
        device: Where they are.
        backend: Of ``torch.compile``, for the plain form compiled; None leaves that out.
    """
    torch.manual_seed(0)
    with torch.device(device):
        scale = torch.tensor(LOGIT_SCALE, dtype=dtype)
        image, text = make_pair(B, STUDENT_DIM, NOISE[0], dtype)
        teacher = (*make_pair(B, TEACHER_DIM, NOISE[1], dtype), scale)
    inputs = (image.requires_grad_(), text.requires_grad_(), scale.clone().requires_grad_())

    def ours(kernel: Any) -> Tensor:
        return SRKDLoss(kernel=kernel)(Embeddings(*inputs), Embeddings(*teacher))["total"]

    def with_gradients(loss: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        total = loss()
        return total.detach(), *torch.autograd.grad(total, inputs)

    @torch.no_grad()
    def products(passes: int) -> None:
        for _ in range(passes):
            logits = image @ text.T
            _ = teacher[0] @ teacher[1].T
        _ = logits @ text
        _ = logits.T @ image

    losses: dict[str, Callable[[], Tensor]] = {"authors": partial(srkd_loss, inputs, teacher)}
    losses |= {kernel: partial(ours, kernel) for kernel in ("plain", *KERNELS)}
    if backend:
        losses[COMPILED] = torch.compile(partial(ours, "plain"), dynamic=False, backend=backend)
    return {
        **{name: partial(with_gradients, loss) for name, loss in losses.items()},
        "four products": partial(products, 1),
        "six products": partial(products, 2),
    }


def speed_rows(B: int, rounds: int) -> list[Row]:
    """Return the rows of speed and memory of both kernels at one batch size."""
    ways = make_ways(B)
    times = interleave({name: run for name, run in ways.items() if name != "plain"}, rounds)
    peaks = {name: peak_numbers(ways[name]) / B**2 for name in ("authors", *KERNELS)}
    rows = []
    for name in KERNELS:
        target, title = TARGETS[name].get(B), ("SRKD loss", f"{name}, batch {B}, cpu")
        rows += [
            Row(
                *title, "times faster than the authors' way", times["authors"] / times[name], target=target,
                seconds={way: times[way] for way in ("authors", name)},
                limit=f"the {PRODUCTS[name]} matrix products",
                times_limit=times[name] / times[f"{PRODUCTS[name]} products"],
                note="forward and backward, float32",
            ),
            Row(
                *title, "B x B numbers at the peak", [peaks[name]], better="lower",
                target=None if target is None else MEMORY_TARGETS[name],
                note=f"the authors' way: {peaks['authors']:.1f}",
            ),
        ]  # fmt: skip
    return rows


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep every core busy with the matrix products of another process."""
    threads = f"torch.set_num_threads({os.cpu_count() or 1})"
    code = f"import torch; {threads}; x = torch.randn(1024, 1024); print(flush=True)\nwhile True: x @ x"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it has started
        try:
            yield
        finally:
            process.kill()


def busy_row(B: int, rounds: int) -> Row:
    """Return the row of the default kernel against the plain form on a busy CPU."""
    kernel = SRKDLoss().kernel
    ways = make_ways(B)
    with busy_cores():
        times = interleave({name: ways[name] for name in ("plain", kernel)}, rounds)
    return Row(
        "SRKD loss", f"{kernel}, batch {B}, cpu, beside a process that keeps every core busy",
        "times faster than the plain form", times["plain"] / times[kernel], target=1.0, seconds=times,
        note="forward and backward, float32",
    )  # fmt: skip


def measure(quick: bool) -> list[Row]:
    sizes, rounds = ([32], 2) if quick else ([512, 1024, 2048, 4096], 4)
    speed = [row for B in sizes for row in speed_rows(B, rounds)]
    return [*speed, busy_row(32 if quick else 2048, rounds)]
