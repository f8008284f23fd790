"""Predicted gestational ages over a fetal growth chart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.style import BLUE, MUTED, RED, new_figure, styled

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Chart:
    """Head circumference in mm over gestational age: `low` and `high` centile and `median` at K ages in weeks.

    Heads within `assessed_mm` count; a model can choose ages within `offered_weeks`.
    """

    weeks: Floats
    low: Floats
    median: Floats
    high: Floats
    assessed_mm: tuple[float, float]
    offered_weeks: tuple[float, float]


@styled
def growth_chart_figure(
    chart: Chart, ages: Floats, hc_mm: Floats, assessed: Bools, valid: Bools, title: str
) -> Figure:
    """Draw predicted ages against measured head circumferences, over the chart.

    Args:
        chart: Curves and limits.
        ages: Predicted gestational ages in weeks, [N].
        hc_mm: Measured head circumferences in mm, [N].
        assessed: Whether each head counts, [N].
        valid: Whether each lies within the chart at its predicted age, [N].
        title: What is shown.
    """
    figure = new_figure(4.4, 4.0, title)
    axis = figure.add_subplot()
    axis.fill_between(
        chart.weeks, chart.low, chart.high, color=BLUE, alpha=0.16, linewidth=0, label="2.5th to 97.5th centile"
    )  # fmt: skip
    axis.plot(chart.weeks, chart.median, color=MUTED, linewidth=1, label="median")
    groups = (
        (~assessed, "s", MUTED, "not assessed"),
        (assessed & ~valid, "^", RED, "outside the chart"),
        (assessed & valid, "o", BLUE, "within the chart"),
    )
    for chosen, marker, colour, label in groups:
        if chosen.any():
            axis.scatter(
                ages[chosen], hc_mm[chosen], s=16, marker=marker, color=colour, alpha=0.75, linewidths=0,
                label=f"{label} ({int(chosen.sum())})",
            )  # fmt: skip
    for limit in chart.assessed_mm:
        axis.axhline(limit, color=MUTED, linewidth=0.7, linestyle=":")
    axis.axvspan(
        *chart.offered_weeks, ymax=0.012, color=MUTED, alpha=0.6, linewidth=0, label="selectable ages"
    )
    axis.set(
        xlim=(chart.weeks[0], chart.weeks[-1]),
        ylim=(min(60.0, float(hc_mm.min()) - 10), max(370.0, float(hc_mm.max()) + 10)),
        xlabel="age predicted by the model (weeks)",
        ylabel="measured HC (mm; dotted: assessed)",
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
