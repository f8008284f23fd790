"""The SRKD loss on a card, forward and backward from float32 embeddings: time, peak memory and error.

The limit is the time of the matrix products: four, and six for a form that computes both logits twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._authors import srkd_loss
from benchmarks._record import Row
from benchmarks.gpu.goals import GOALS, LOSS
from benchmarks.gpu.stage import Stage, release
from benchmarks.loss_speed import KERNELS, LOGIT_SCALE, NOISE, STUDENT_DIM, TEACHER_DIM, make_pair
from losses import Embeddings, SRKDLoss

PRECISIONS = {"highest": "float32", "high": "TF32"}
EXACT, FAR, FARTHEST = 4096, 16384, 65536
PRODUCTS = {"four products": 1, "six products": 2}
COMPILED, MS = "compiled plain form", "ms, forward and backward"
Ways = dict[str, Callable[[], Any]]


class Inputs:
    """Embeddings of one batch on the device, and the ways to compute the loss and its gradients."""

    def __init__(self, stage: Stage, B: int, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.stage = stage

        def on(D: int, noise: float) -> tuple[Tensor, Tensor]:
            with torch.device(stage.device):
                image, text = make_pair(B, D, noise, torch.float64)
            return image.to(dtype), text.to(dtype)

        image, text = on(STUDENT_DIM, NOISE[0])
        scale = torch.tensor(LOGIT_SCALE, device=stage.device, dtype=dtype)
        self.own = (image.requires_grad_(), text.requires_grad_(), scale.clone().requires_grad_())
        self.taught = (*on(TEACHER_DIM, NOISE[1]), scale)
        self.compiled = torch.compile(partial(self.loss, "plain"), dynamic=False, backend=stage.backend)

    def loss(self, kernel: Any) -> Tensor:
        return SRKDLoss(kernel=kernel)(Embeddings(*self.own), Embeddings(*self.taught))["total"]

    def gradients(self, total: Tensor) -> tuple[Tensor, ...]:
        return total.detach(), *torch.autograd.grad(total, self.own)

    @torch.no_grad()
    def products(self, passes: int) -> None:
        """Compute the matrix products without anything between them."""
        (image, text, _), (taught_image, taught_text, _) = self.own, self.taught
        for _ in range(passes):
            logits = image @ text.T
            _ = taught_image @ taught_text.T
        _ = logits @ text
        _ = logits.T @ image

    def ways(self) -> Ways:
        """Return all ways; the plain form is compiled at one size only, which takes about ten seconds."""
        compiled = {COMPILED: lambda: self.gradients(self.compiled())}
        return {
            "authors": lambda: self.gradients(srkd_loss(self.own, self.taught)),
            **{kernel: lambda kernel=kernel: self.gradients(self.loss(kernel)) for kernel in KERNELS},
            **(compiled if len(self.own[0]) == sizes(self.stage.quick)[1] else {}),
            **{name: partial(self.products, passes) for name, passes in PRODUCTS.items()},
        }


def largest_error(found: tuple[Tensor, ...], exact: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return the relative errors of the total and, relative to its largest number, of the image gradient."""
    total, image = (
        float(((a.double() - b).abs().max() / b.abs().max()).item())
        for a, b in zip(found[:2], exact, strict=False)
    )
    return total, image


def one_batch(stage: Stage, B: int, kind: str, medians: dict[tuple[int, str, str], float]) -> None:
    """Time all ways at one batch size and one precision of products."""
    inputs = Inputs(stage, B)
    ways, precision, usable = inputs.ways(), PRECISIONS[kind], {}
    peaks: dict[str, float] = {}
    for name, way in ways.items():  # the first call also tells whether it fits
        row = Row(LOSS, f"{name}, batch {B:,}, {precision}", MS, [], better="lower")
        needs = 15 if name == COMPILED and not stage.quick else 0

        def first(name: str = name, way: Callable[[], Any] = way) -> None:
            way()
            peaks[name] = stage.peak_gb(way)

        if stage.measured(row, first, needs=needs):
            usable[name] = way
    rounds, repeat = (2, 1) if stage.quick else (3, 1) if B == FARTHEST else (5, 3)
    times = stage.turns(usable, rounds, repeat)
    medians |= {(B, precision, name): float(np.median(t)) for name, t in times.items()}
    stage.facts.setdefault("loss_gb", {})[f"{B}, {precision}"] = peaks
    for name, seconds in times.items():
        limit, shown, notes = "six products" if name == "chunked" else "four products", {}, []
        if name in PRODUCTS:
            work = 2 * B**2 * (PRODUCTS[name] * (STUDENT_DIM + TEACHER_DIM) + 2 * STUDENT_DIM)
            rate = work / float(np.median(seconds)) / 1e12
            stage.facts.setdefault("loss_tflops", {})[f"{B}, {precision}"] = rate
            notes.append(f"{rate:.3g} TFLOP/s")
        else:
            notes.append(f"peak {peaks[name]:.3g} GB, {peaks[name] * 1e9 / 4 / B**2:.3g} B x B numbers")
            if limit in times:
                shown = {"limit": f"the {limit}", "times_limit": seconds / times[limit]}
            if "authors" in times:
                notes.append(f"{float(np.median(times['authors'] / seconds)):.3g} times the authors' speed")
        row = Row(
            LOSS, f"{name}, batch {B:,}, {precision}", MS, 1e3 * seconds, better="lower",
            seconds={name: seconds}, note="; ".join(notes), **shown,
        )  # fmt: skip
        stage.add(row)
    goals(stage, B, precision, times, peaks, medians)


def goals(
    stage: Stage, B: int, precision: str, times: dict[str, np.ndarray], peaks: dict[str, float],
    medians: dict[tuple[int, str, str], float],
) -> None:  # fmt: skip
    """Add the rows with a target, which are of plain float32."""
    if precision != "float32":
        return
    _, far, farthest = sizes(stage.quick)
    if far == B and {"authors", "fused"} <= set(times):
        note = ", ".join(f"{name} {1e3 * float(np.median(t)):.3g} ms" for name, t in times.items())
        stage.goal("loss", times["authors"] / times["fused"], seconds=times, note=note)
    if farthest == B and "chunked" in times:
        stage.goal("loss memory", [peaks["chunked"]])
        before = medians.get((far, precision, "chunked"))
        if before:
            stage.goal("loss pair", times["chunked"] / B**2 / (before / far**2))


def errors(stage: Stage) -> None:
    """Compare every way at the smallest batch with the authors' form in float64 on the same device."""
    B = sizes(stage.quick)[0]
    wide, narrow = Inputs(stage, B, torch.float64), Inputs(stage, B)
    exact = wide.gradients(srkd_loss(wide.own, wide.taught))
    # Theirs subtracts the entropy of the teacher's answers, which has no gradient.
    totals = {True: exact[0], False: wide.loss("plain").detach()}
    for kind, precision in PRECISIONS.items():
        torch.set_float32_matmul_precision(kind)
        for name in ("authors", *KERNELS):
            total, image = largest_error(narrow.ways()[name](), (totals[name == "authors"], exact[1]))
            row = Row(
                LOSS, f"{name}, batch {B:,}, {precision}", "largest relative error of the image gradient",
                [image], better="lower", note=f"of the total: {total:.2g}; against float64 on the card",
            )  # fmt: skip
            stage.add(row)
    torch.set_float32_matmul_precision("highest")


def sizes(quick: bool) -> tuple[int, int, int]:
    return (16, 32, 64) if quick else (EXACT, FAR, FARTHEST)


def run(stage: Stage) -> None:
    """Measure plain float32 at all sizes first, then TF32, then the errors."""
    medians: dict[tuple[int, str, str], float] = {}
    for kind in PRECISIONS:
        for B in sizes(stage.quick):
            torch.set_float32_matmul_precision(kind)
            row = Row(LOSS, f"batch {B:,}, {PRECISIONS[kind]}", "ms", [])
            stage.measured(row, partial(one_batch, stage, B, kind, medians), needs=0 if stage.quick else 12)
            torch.compiler.reset()
            release()  # the inputs are part of a cycle
        if kind == "highest":
            torch.set_float32_matmul_precision(kind)
            stage.measured(Row(LOSS, "errors", "relative error", []), partial(errors, stage))
    missing = [name for name in ("loss", "loss memory", "loss pair") if name not in stage.reached]
    if missing:
        stage.measured(GOALS[missing[0]], partial(fail, "its ways did not run"), *missing)


def fail(reason: str) -> None:
    """Give the rows of goals their reason."""
    raise RuntimeError(reason)
