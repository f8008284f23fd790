"""Time and memory of the SRKD loss, forward and backward, against the authors' described way.

Usage: python -m benchmarks.loss_speed [--batch-sizes 512 1024 2048 4096] [--repeats 11] [--device cpu]

Every repeat runs all ways one after the other, so that a disturbance of the machine hits all of them; a
ratio is taken within a repeat, and its median and 10th-90th percentile over repeats are reported. The limit
beside them is the time of the four matrix products that no form can avoid. Peak memory counts what torch
allocates during forward and backward, gradients included, in units of B x B numbers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks._record import Row, line, make_row, number, spread, write
from benchmarks.baselines.loss_authors import srkd_loss
from losses import Embeddings, SRKDLoss

STUDENT_DIM, TEACHER_DIM = 512, 768
LOGIT_SCALE = 100.0
KERNELS = ("plain", "fused", "chunked")
TARGETS = {"fused": {512: 4.5, 1024: 6.0, 2048: 7.0, 4096: 8.0}, "chunked": {4096: 4.0}}
MEMORY_TARGETS = {"fused": 2.6, "chunked": 0.8}


def make_pair(B: int, D: int, noise: float, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Return correlated unit-length image and text embeddings [B, D]."""
    image = torch.randn(B, D, dtype=dtype)
    text = image + noise * torch.randn(B, D, dtype=dtype)
    return normalize(image, dim=1).to(device), normalize(text, dim=1).to(device)


def make_ways(B: int, dtype: torch.dtype, device: str) -> dict[str, Callable[[], Any]]:
    """Return every way to get the loss and its gradients, as functions without arguments."""
    torch.manual_seed(0)
    scale = torch.tensor(LOGIT_SCALE, dtype=dtype, device=device)
    image, text = make_pair(B, STUDENT_DIM, 3.0, dtype, device)
    teacher = (*make_pair(B, TEACHER_DIM, 2.0, dtype, device), scale)
    inputs = (image.requires_grad_(), text.requires_grad_(), scale.clone().requires_grad_())

    def authors() -> tuple[Tensor, ...]:
        loss = srkd_loss(inputs, teacher)
        return loss.detach(), *torch.autograd.grad(loss, inputs)

    def ours(kernel: str) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            loss = SRKDLoss(kernel=kernel)(Embeddings(*inputs), Embeddings(*teacher))["total"]
            return loss.detach(), *torch.autograd.grad(loss, inputs)

        return run

    @torch.no_grad()
    def four_products() -> None:
        logits = image @ text.T
        _ = teacher[0] @ teacher[1].T
        _ = logits @ text
        _ = logits.T @ image

    return {
        "authors": authors,
        **{kernel: ours(kernel) for kernel in KERNELS},
        "four products": four_products,
    }


def check_equality(device: str) -> dict[str, float]:
    """Return the largest difference from the plain form in float64, relative to each result's largest number.

    The authors' way adds the teacher's entropy to its value, so only its gradients are compared.
    """
    ways = make_ways(256, torch.float64, device)
    plain = ways["plain"]()
    worst = {}
    for name in ("fused", "chunked", "authors"):
        pairs = list(zip(ways[name](), plain, strict=True))[1 if name == "authors" else 0 :]
        worst[name] = max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)
    return worst


def timed(run: Callable[[], Any], device: str) -> float:
    """Return the seconds of one call."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


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


def measure(B: int, repeats: int, device: str) -> dict[str, Any]:
    """Return the row of one batch size."""
    ways = make_ways(B, torch.float32, device)
    for run in ways.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            seconds[name].append(timed(run, device))
    times = {name: np.array(values) for name, values in seconds.items()}
    return {
        "batch": B,
        "milliseconds": {name: spread(1e3 * values) for name, values in times.items()},
        "times_faster_than_authors": {name: spread(times["authors"] / times[name]) for name in KERNELS},
        "times_the_four_products": {name: spread(times[name] / times["four products"]) for name in KERNELS},
        "peak_in_bxb": {name: peak_numbers(ways[name], device) / B**2 for name in ("authors", *KERNELS)},
        "target": {name: TARGETS.get(name, {}).get(B) for name in KERNELS},
    }


def rows_of(details: dict[str, Any], device: str) -> list[Row]:
    """Return the table's rows of one batch size: speed and memory of our two kernels."""
    B, found = details["batch"], []
    for name in ("fused", "chunked"):
        row = make_row(
            "SRKD loss",
            f"{name}, batch {B}, {device}",
            "times faster than the authors' way",
            [details["times_faster_than_authors"][name]["median"]],
            target=details["target"][name],
            limit="the four matrix products",
            limit_values=[details["times_the_four_products"][name]["median"]],
            note="forward and backward, float32",
        )
        row["value"] = details["times_faster_than_authors"][name]
        row["times_limit"] = details["times_the_four_products"][name]
        row["seconds"] = {
            way: {key: value / 1e3 for key, value in details["milliseconds"][way].items()}
            for way in ("authors", name)
        }
        found.append(row)
        theirs = details["peak_in_bxb"]["authors"]
        memory = make_row(
            "SRKD loss",
            f"{name}, batch {B}, {device}",
            "B x B numbers at the peak",
            [details["peak_in_bxb"][name]],
            target=MEMORY_TARGETS[name] if details["target"][name] is not None else None,
            better="lower",
            note=f"the authors' way: {theirs:.1f}",
            reason=f"{number(2 * STUDENT_DIM / B)} are the gradients in the embeddings, which any form returns",
        )
        found.append(memory)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny batch, to see that it runs")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.quick:
        options.batch_sizes, options.repeats = [32], 2
    if options.threads:
        torch.set_num_threads(options.threads)
    equality = check_equality(options.device)
    print("largest relative difference from the plain form, float64:", equality)
    details, rows = [], []
    for B in options.batch_sizes:
        details.append(measure(B, options.repeats, options.device))
        rows += rows_of(details[-1], options.device)
        print(*map(line, rows[-4:]), sep="\n", flush=True)
    if options.out or not options.quick:
        path = write(
            "loss_speed", rows, options.quick, options.out, difference_float64=equality, batches=details
        )
        print(f"written to {path}")


if __name__ == "__main__":
    main()
