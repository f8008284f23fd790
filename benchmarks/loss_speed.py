"""Time and memory of the SRKD loss, forward and backward, against the authors' described way.

Usage: python -m benchmarks.loss_speed [--batch-sizes 512 1024 2048 4096] [--repeats 4] [--device cpu]

All ways run in turns, so that a disturbance of the machine hits all of them; a ratio is taken within a turn. The
limit beside them is the time of the matrix products that a form cannot avoid: four, and six for the chunked one,
which computes both logits again; a missed target names the exponentials, too. Peak memory counts what torch
allocates during forward and backward, gradients included, in units of B x B numbers. It ends with an error where a
way differs from the plain form in float64.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks._record import Row, finish, interleave, make_row, number, parser_of
from benchmarks.baselines.loss_authors import srkd_loss
from losses import Embeddings, SRKDLoss

STUDENT_DIM, TEACHER_DIM = 512, 768
LOGIT_SCALE = 100.0
KERNELS = ("fused", "chunked")
PRODUCTS = {"fused": "four products", "chunked": "six products"}
WITH_EXPONENTIALS = {
    "fused": "four products and two exponentials",
    "chunked": "six products and four exponentials",
}
NOISE = (3.0, 2.0)
"""Between the embeddings of a pair, student's and teacher's: pairs that are still hard to tell."""
MATCHED_NOISE = (0.5, 0.5)
"""The same for a student that has learnt its pairs."""
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
    """Return every way to get the loss and its gradients, as functions without arguments."""
    torch.manual_seed(0)
    scale = torch.tensor(LOGIT_SCALE, dtype=dtype, device=device)
    # Drawn in float64 whatever is asked for, so that precisions can be compared.
    image, text = (x.to(dtype) for x in make_pair(B, STUDENT_DIM, noise[0], device))
    teacher = (*(x.to(dtype) for x in make_pair(B, TEACHER_DIM, noise[1], device)), scale)
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
    def products(passes: int, exponentials: bool = False) -> None:
        for _ in range(passes):
            logits = image @ text.T
            teacher_logits = teacher[0] @ teacher[1].T
            if exponentials:
                logits.exp_()
                teacher_logits.exp_()
        _ = logits @ text
        _ = logits.T @ image

    return {
        "authors": authors,
        **{kernel: ours(kernel) for kernel in ("plain", *KERNELS)},
        "four products": lambda: products(1),
        "six products": lambda: products(2),
        WITH_EXPONENTIALS["fused"]: lambda: products(1, exponentials=True),
        WITH_EXPONENTIALS["chunked"]: lambda: products(2, exponentials=True),
    }


def check_equality(device: str) -> dict[str, float]:
    """Return the largest difference from the plain form in float64, relative to each result's largest number.

    The authors' way adds the teacher's entropy to its value, so only its gradients are compared.
    """
    ways = make_ways(256, torch.float64, device)
    plain = ways["plain"]()
    return {name: largest_difference(name, ways[name](), plain) for name in (*KERNELS, "authors")}


def largest_difference(name: str, found: Any, truth: Any) -> float:
    """Return the largest difference of any result, relative to its largest number; NaN if there is one."""
    pairs = list(zip(found, truth, strict=True))[1 if name == "authors" else 0 :]
    # NumPy's maximum keeps a NaN, Python's may drop it.
    return float(np.max([float((x - y).abs().max() / y.abs().max()) for x, y in pairs]))


def precision_row(device: str) -> Row:
    """Return the table's row of how many digits float32 keeps once a student has learnt its pairs.

    The truth is the fused form in float64, which the tests hold against 80-bit numbers.
    """
    truth = make_ways(256, torch.float64, device, MATCHED_NOISE)["fused"]()
    ways = make_ways(256, torch.float32, device, MATCHED_NOISE)
    names = (*KERNELS, "plain", "authors")
    worst = {name: largest_difference(name, ways[name](), truth) for name in names}
    return make_row(
        "SRKD loss",
        f"float32, well-matched pairs, batch 256, {device}",
        "at most of relative difference from float64, values and gradients",
        [max(worst[name] for name in KERNELS)],
        better="lower",
        note=", ".join(f"{name} {difference:.0e}" for name, difference in worst.items()),
    )


def equality_row(differences: dict[str, float], device: str) -> Row:
    """Return the table's row of what `check_equality` found."""
    return make_row(
        "SRKD loss",
        f"float64, batch 256, {device}",
        "at most of relative difference from the plain form, values and gradients",
        [max(differences.values())],
        target=EQUALITY,
        better="lower",
        note=", ".join(f"{name} {difference:.0e}" for name, difference in differences.items()),
    )


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


def measure(B: int, repeats: int, device: str) -> list[Row]:
    """Return the rows of one batch size: speed and memory of our two kernels."""
    ways = make_ways(B, torch.float32, device)
    times = interleave({name: run for name, run in ways.items() if name != "plain"}, repeats, device)
    peaks = {name: peak_numbers(ways[name], device) / B**2 for name in ("authors", *KERNELS)}
    found = []
    for name in KERNELS:
        target = TARGETS[name].get(B)
        title = ("SRKD loss", f"{name}, batch {B}, {device}")
        over = float(np.median(times[name] / times[PRODUCTS[name]]))
        alone, floor = (
            number(float(np.median(times["authors"] / times[least])))
            for least in (PRODUCTS[name], WITH_EXPONENTIALS[name])
        )
        speed = make_row(
            *title,
            "times faster than the authors' way",
            times["authors"] / times[name],
            target=target,
            seconds={way: times[way] for way in ("authors", name)},
            limit=f"the {PRODUCTS[name].replace(' ', ' matrix ')}",
            limit_values=times[name] / times[PRODUCTS[name]],
            note="forward and backward, float32",
            reason=f"it takes {number(over)} x the {PRODUCTS[name]}, which alone would be {alone} times faster "
            f"than the authors' way; the {WITH_EXPONENTIALS[name]} alone, without a sum or a gradient's sum, {floor}",
        )
        memory = make_row(
            *title,
            "B x B numbers at the peak",
            [peaks[name]],
            target=None if target is None else MEMORY_TARGETS[name],
            better="lower",
            note=f"the authors' way: {peaks['authors']:.1f}",
            reason=f"{number(1 + 2 * STUDENT_DIM / B)} are the gradients in the logits and, made of them by a product "
            "each, in the embeddings",
        )
        found += [speed, memory]
    return found


def settle_options() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of("loss_speed", __doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=4, help="turns of this one process")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if left out")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device on this machine")
    if options.quick:
        options.batch_sizes, options.repeats = [32], 2
    return options


def main() -> None:
    options = settle_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    differences = check_equality(options.device)
    if not all(difference <= EQUALITY for difference in differences.values()):
        sys.exit(
            f"error: the loss differs from its plain form in float64 by {differences}, above {EQUALITY:g}"
        )
    rows = [equality_row(differences, options.device), precision_row(options.device)]
    for B in options.batch_sizes:
        rows += measure(B, options.repeats, options.device)
    finish("loss_speed", rows, options)


if __name__ == "__main__":
    main()
