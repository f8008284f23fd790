"""Training curves over optimiser steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.style import BLUE, INK, MUTED, PAPER, RED, new_figure, styled

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One logged number.

    Attributes:
        label: Its name in the legend.
        steps: Optimiser steps, rising, [N].
        values: The number at each, [N].
        colour: Colour of the palette.
        line: Matplotlib's line style, with a marker where points are few: ``-``, ``--``, ``o-``.
        reference: A constant to compare with, drawn dotted in the same colour.
        filled: Whether each point is a filled dot, else a hollow one, [N]; None draws no such dots.
        crossing: Step at which this run's weight turns negative, where runs are compared.
    """

    label: str
    steps: Floats
    values: Floats
    colour: str
    line: str = "-"
    reference: float | None = None
    filled: Sequence[bool] | None = None
    crossing: float | None = None


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis; `selected` is step and value of the selected checkpoint.

    `is_weight`: the only curve is the off-diagonal weight, filled down to zero, blue above it and red below.
    """

    title: str
    ylabel: str
    curves: Sequence[Curve]
    is_weight: bool = False
    limits: tuple[float, float] | None = None
    selected: tuple[float, float] | None = None


@styled
def curves_figure(panels: Sequence[Panel], last_step: float, crossing: float | None = None) -> Figure:
    """Draw training curves, one panel below another.

    Args:
        panels: What to draw.
        last_step: Last optimiser step of the run.
        crossing: Step at which the off-diagonal weight turns negative, marked and shaded from there on.
    """
    crowded = len(panels) == 1 and len(panels[0].curves) > 2
    figure = new_figure(5.0, 2.8 + 0.4 * crowded if len(panels) == 1 else 2.2 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        if crossing is not None:
            axis.axvline(crossing, color=RED, linewidth=1.1, linestyle="--")
            axis.axvspan(crossing, last_step, color=RED, alpha=0.08, linewidth=0)
        if any(curve.values.min() < 0 for curve in panel.curves):
            axis.axhline(0, color=MUTED, linewidth=0.8)
        if panel.is_weight:
            _fill(axis, panel.curves[0], crossing)
        for curve in panel.curves:
            _plot(axis, curve, None if panel.is_weight else curve.label)
        if panel.selected is not None:
            axis.plot(*panel.selected, "o", color=INK, markersize=9, fillstyle="none")
        axis.set(ylabel=panel.ylabel, title=panel.title, ylim=panel.limits)
        if not crowded:
            place = "upper right" if panel.is_weight else "best"
            axis.legend(loc=place, ncols=1 + (len(panel.curves) > 2))
    axes[-1].set(xlim=(0, max(1.0, 1.02 * last_step)), xlabel="optimiser step")
    if crowded:  # below: the curves leave no free corner
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _plot(axis: Axes, curve: Curve, label: str | None) -> None:
    axis.plot(
        curve.steps, curve.values, curve.line, color=curve.colour, markersize=3.5, linewidth=1.4, label=label
    )
    if curve.reference is not None:
        axis.axhline(curve.reference, color=curve.colour, linewidth=1, linestyle=":")
    if curve.crossing is not None:
        axis.axvline(curve.crossing, color=curve.colour, linewidth=1, linestyle="--")
    if curve.filled is not None:
        inside = [curve.colour if filled else PAPER for filled in curve.filled]
        axis.scatter(curve.steps, curve.values, s=20, c=inside, edgecolors=curve.colour, zorder=2)


def _fill(axis: Axes, curve: Curve, crossing: float | None) -> None:
    for chosen, colour, label in ((curve.values > 0, BLUE, "attract"), (curve.values < 0, RED, "repel")):
        axis.fill_between(
            curve.steps, curve.values, 0, where=chosen, interpolate=True, color=colour, alpha=0.27, linewidth=0,
            label=label,
        )  # fmt: skip
    if crossing is not None:
        text = f"zero at step {crossing:.0f}"
        axis.annotate(text, (crossing, 0), xytext=(5, 6), textcoords="offset points", color=RED)
