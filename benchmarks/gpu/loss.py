"""The SRKD loss on a card, forward and backward from float32 embeddings: time, peak memory and error.

The limit is the time of the matrix products: four, and six for a form that computes both logits twice.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks._record import Row, interleave
from benchmarks.gpu.stage import LOSS, Stage, milliseconds, release
from benchmarks.loss_speed import KERNELS, STUDENT_DIM, TEACHER_DIM, make_ways

PRECISIONS = {"float32": "highest", "TF32": "high"}  # names of torch.set_float32_matmul_precision
PRODUCTS = {"four products": 1, "six products": 2}  # times that both logits are computed


def sizes(quick: bool) -> tuple[int, int, int]:
    """Return the batch sizes: errors are measured at the first, the plain form is compiled at the second."""
    return (16, 32, 64) if quick else (4096, 16384, 65536)


def one_batch(stage: Stage, B: int, precision: str, pair_seconds: dict[int, float]) -> None:
    """Time all ways that fit at one batch size and one precision of products, and add the rows with a target.

    Args:
        stage: Receives the rows.
        B: Pairs.
        precision: Key of `PRECISIONS`.
        pair_seconds: Receives the seconds a pair of the chunked loss by batch size, in float32.
    """
    backend = stage.backend if sizes(stage.quick)[1] == B else None
    ways = make_ways(B, device=stage.device, backend=backend)
    del ways["plain"]
    peaks: dict[str, float] = {}

    def first_call(name: str) -> None:
        ways[name]()  # tells whether it fits
        peaks[name] = stage.peak_gb(ways[name])

    def case(name: str) -> str:
        return f"{name}, batch {B:,}, {precision}"

    usable = {
        name: way for name, way in ways.items() if stage.measured(case(name), partial(first_call, name))
    }
    _, far, farthest = sizes(stage.quick)
    times = interleave(usable, *((2, 1) if stage.quick else (3, 1) if farthest == B else (5, 3)))
    stage.facts.setdefault("loss_gb", {})[f"{B}, {precision}"] = peaks
    for name, seconds in times.items():
        limit, shown = "six products" if name == "chunked" else "four products", {}
        if name in PRODUCTS:
            work = 2 * B**2 * (PRODUCTS[name] * (STUDENT_DIM + TEACHER_DIM) + 2 * STUDENT_DIM)
            rate = work / float(np.median(seconds)) / 1e12
            stage.facts.setdefault("loss_tflops", {})[f"{B}, {precision}"] = rate
            note = f"{rate:.3g} TFLOP/s"
        else:
            note = f"peak {peaks[name]:.3g} GB, {peaks[name] * 1e9 / 4 / B**2:.3g} B x B numbers"
            if limit in times:
                shown = {"limit": f"the {limit}", "times_limit": seconds / times[limit]}
            if "authors" in times and name != "authors":
                note += f"; {float(np.median(times['authors'] / seconds)):.3g} times the authors' speed"
        row = Row(
            LOSS, case(name), "ms, forward and backward", 1e3 * seconds, better="lower",
            seconds={name: seconds}, note=note, **shown,
        )  # fmt: skip
        stage.add(row)
    if precision != "float32":
        return
    if far == B and {"authors", "fused"} <= set(times):
        ratio = times["authors"] / times["fused"]
        stage.goal("loss", ratio, seconds=times, note=milliseconds(times))
    if "chunked" in times:
        pair_seconds[B] = float(np.median(times["chunked"])) / B**2
        if farthest == B:
            stage.goal("loss memory", [peaks["chunked"]])
            if far in pair_seconds:
                stage.goal("loss pair", times["chunked"] / B**2 / pair_seconds[far])


def errors(stage: Stage, precision: str) -> None:
    """Compare every way at the smallest batch with the authors' form in float64 on the same device."""
    B = sizes(stage.quick)[0]
    wide, narrow = make_ways(B, torch.float64, stage.device), make_ways(B, device=stage.device)
    exact, exact_image, *_ = wide["authors"]()
    plain, *_ = wide["plain"]()  # the authors' total subtracts the entropy of the teacher's answers

    def error(found: Tensor, exact: Tensor) -> float:
        return float((found.double() - exact).abs().max() / exact.abs().max())

    for name in ("authors", *KERNELS):
        total, image, *_ = narrow[name]()
        off = error(total, exact if name == "authors" else plain)
        row = Row(
            LOSS, f"{name}, batch {B:,}, {precision}", "largest relative error of the image gradient",
            [error(image, exact_image)], better="lower", note=f"of the total: {off:.2g}; against float64 on the card",
        )  # fmt: skip
        stage.add(row)


def run(stage: Stage) -> None:
    """Measure plain float32 at all sizes first, then TF32; the errors after each."""
    pair_seconds: dict[int, float] = {}
    for precision, setting in PRECISIONS.items():
        torch.set_float32_matmul_precision(setting)
        for B in sizes(stage.quick):
            stage.measured(f"batch {B:,}, {precision}", partial(one_batch, stage, B, precision, pair_seconds))
            torch.compiler.reset()
            release()  # the inputs may be part of a cycle
        stage.measured(f"errors, {precision}", partial(errors, stage, precision))
    torch.set_float32_matmul_precision("highest")
