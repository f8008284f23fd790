"""Time and memory of the SRKD loss, forward and backward, against the way that the authors describe.

All ways run in turns; ratios are taken within a turn. The limit is the time of the matrix products that a form cannot
avoid: four, and six for the chunked form, which computes both logits twice. Peak memory counts what torch allocates
during forward and backward, gradients included, in units of B x B numbers. One row compares the default kernel with
the plain form beside a process that keeps every core busy, as a training beside it would. It fails if a way differs
from the plain form in float64.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks._record import Row, command, interleave, make_row, number
from benchmarks.baselines.loss_authors import srkd_loss
from losses import Embeddings, SRKDLoss

STUDENT_DIM, TEACHER_DIM = 512, 768
LOGIT_SCALE = 100.0
KERNELS = ("fused", "chunked")
PRODUCTS = {"fused": "four products", "chunked": "six products"}
# Noise between the embeddings of a pair, student's and teacher's: pairs still hard to match, and learnt ones.
NOISE, MATCHED_NOISE = (3.0, 2.0), (0.5, 0.5)
EQUALITY = 1e-12
TARGETS = {"fused": {512: 4.5, 1024: 6.0, 2048: 7.0, 4096: 8.0}, "chunked": {4096: 4.0}}
MEMORY_TARGETS = {"fused": 2.6, "chunked": 0.8}


def make_pair(B: int, D: int, noise: float, device: str) -> tuple[Tensor, Tensor]:
    """Return correlated unit-length image and text embeddings [B, D] in float64."""
    image = torch.randn(B, D, dtype=torch.float64)
    text = image + noise * torch.randn(B, D, dtype=torch.float64)
    return normalize(image, dim=1).to(device), normalize(text, dim=1).to(device)


def make_ways(
    B: int, dtype: torch.dtype, device: str, noise: tuple[float, float] = NOISE
) -> dict[str, Callable[[], Any]]:
    """Return every way to compute the loss and its gradients, and its products, as functions without arguments."""
    torch.manual_seed(0)
    scale = torch.tensor(LOGIT_SCALE, dtype=dtype, device=device)
    # Drawn in float64 for every dtype, so that precisions can be compared.
    image, text = (x.to(dtype) for x in make_pair(B, STUDENT_DIM, noise[0], device))
    teacher = (*(x.to(dtype) for x in make_pair(B, TEACHER_DIM, noise[1], device)), scale)
    inputs = (image.requires_grad_(), text.requires_grad_(), scale.clone().requires_grad_())

    def with_gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return loss.detach(), *torch.autograd.grad(loss, inputs)

    def ours(kernel: str) -> tuple[Tensor, ...]:
        return with_gradients(SRKDLoss(kernel=kernel)(Embeddings(*inputs), Embeddings(*teacher))["total"])

    @torch.no_grad()
    def products(passes: int) -> None:
        for _ in range(passes):
            logits = image @ text.T
            _ = teacher[0] @ teacher[1].T
        _ = logits @ text
        _ = logits.T @ image

    return {
        "authors": lambda: with_gradients(srkd_loss(inputs, teacher)),
        **{kernel: lambda kernel=kernel: ours(kernel) for kernel in ("plain", *KERNELS)},
        "four products": lambda: products(1),
        "six products": lambda: products(2),
    }


def largest_difference(name: str, found: Any, truth: Any) -> float:
    """Return the largest difference of any result, relative to its largest number; NaN if there is one.

    The authors' way adds the teacher's entropy to its value, so only its gradients are compared.
    """
    pairs = list(zip(found, truth, strict=True))[1 if name == "authors" else 0 :]
    # NumPy's maximum keeps a NaN, Python's may drop it.
    return float(np.max([float((x - y).abs().max() / y.abs().max()) for x, y in pairs]))


def check_equality(device: str) -> dict[str, float]:
    """Return the `largest_difference` of each way from the plain form in float64."""
    ways = make_ways(256, torch.float64, device)
    plain = ways["plain"]()
    return {name: largest_difference(name, ways[name](), plain) for name in (*KERNELS, "authors")}


def precision_rows(device: str) -> list[Row]:
    """Return the rows of equality in float64, and of float32 once a student has learnt its pairs.

    The reference for float32 is the fused form in float64, which the tests compare with 80-bit numbers.

    Raises:
        ValueError: A way differs from the plain form in float64.
    """
    equal = check_equality(device)
    if not all(difference <= EQUALITY for difference in equal.values()):
        raise ValueError(f"the loss differs from its plain form in float64 by {equal}, above {EQUALITY:g}")
    truth = make_ways(256, torch.float64, device, MATCHED_NOISE)["fused"]()
    ways = make_ways(256, torch.float32, device, MATCHED_NOISE)
    single = {name: largest_difference(name, ways[name](), truth) for name in (*KERNELS, "plain", "authors")}
    measure = "at most of relative difference from {}, values and gradients"
    notes = [", ".join(f"{name} {value:.0e}" for name, value in found.items()) for found in (equal, single)]
    return [
        make_row(
            "SRKD loss", f"float64, batch 256, {device}", measure.format("the plain form"),
            [max(equal.values())], target=EQUALITY, better="lower", note=notes[0],
        ),
        make_row(
            "SRKD loss", f"float32, well-matched pairs, batch 256, {device}", measure.format("float64"),
            [max(single[name] for name in KERNELS)], better="lower", note=notes[1],
        ),
    ]  # fmt: skip


def peak_numbers(run: Callable[[], Any], device: str) -> float:
    """Return the peak of float32 numbers allocated during one call."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 4
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    held = np.cumsum([e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"])
    return float(held.max()) / 4


def speed_rows(B: int, repeats: int, device: str) -> list[Row]:
    """Return the rows of speed and memory of both kernels at one batch size."""
    ways = make_ways(B, torch.float32, device)
    times = interleave({name: run for name, run in ways.items() if name != "plain"}, repeats, device)
    peaks = {name: peak_numbers(ways[name], device) / B**2 for name in ("authors", *KERNELS)}
    rows = []
    for name in KERNELS:
        target, title = TARGETS[name].get(B), ("SRKD loss", f"{name}, batch {B}, {device}")
        rows += [
            make_row(
                *title, "times faster than the authors' way", times["authors"] / times[name], target=target,
                seconds={way: times[way] for way in ("authors", name)},
                limit=f"the {PRODUCTS[name].replace(' ', ' matrix ')}",
                limit_values=times[name] / times[PRODUCTS[name]], note="forward and backward, float32",
            ),
            make_row(
                *title, "B x B numbers at the peak", [peaks[name]], better="lower",
                target=None if target is None else MEMORY_TARGETS[name],
                note=f"the authors' way: {peaks['authors']:.1f}",
                reason=f"{number(1 + 2 * STUDENT_DIM / B)} are the gradients in the logits and, made of them by a "
                "product each, in the embeddings",
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


def busy_row(B: int, repeats: int) -> Row:
    """Return the row of the default kernel against the plain form on a busy CPU."""
    kernel = SRKDLoss().kernel
    ways = make_ways(B, torch.float32, "cpu")
    with busy_cores():
        times = interleave({name: ways[name] for name in ("plain", kernel)}, repeats)
    return make_row(
        "SRKD loss", f"{kernel}, batch {B}, cpu, beside a process that keeps every core busy",
        "times faster than the plain form", times["plain"] / times[kernel], target=1.0, seconds=times,
        note="forward and backward, float32",
    )  # fmt: skip


def measure(quick: bool, batch_sizes: Sequence[int], repeats: int, device: str) -> list[Row]:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device on this machine")
    if quick:
        batch_sizes, repeats = [32], 2
    rows = precision_rows(device)
    rows += [row for B in batch_sizes for row in speed_rows(B, repeats, device)]
    return [*rows, busy_row(32 if quick else 2048, repeats)] if device == "cpu" else rows


OPTIONS = {
    "--batch-sizes": {"type": int, "nargs": "+", "default": [512, 1024, 2048, 4096]},
    "--repeats": {"type": int, "default": 4, "help": "turns of this one process"},
    "--device": {"default": "cpu", "choices": ["cpu", "cuda"]},
}

if __name__ == "__main__":
    command("loss_speed", measure, __doc__, OPTIONS)
