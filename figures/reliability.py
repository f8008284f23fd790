"""Reliability diagram: how often predictions of each confidence are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from figures.style import CYCLE, MUTED, new_figure, styled


@styled
def reliability_figure(curves: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> Figure:
    """Draw accuracy against confidence; a dot's area is its bin's share of images, its line the calibration error.

    Args:
        curves: Model -> ``confidence``, ``accuracy`` and ``count`` of each bin (see `metrics.calibration`).
        title: What is shown.
    """
    figure = new_figure(3.8, 3.7, title)
    axis = figure.add_subplot()
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="calibrated")
    for colour, (name, bins) in zip(CYCLE, curves.items(), strict=False):
        confidence, accuracy, count = (
            np.array([point[key] for point in bins]) for key in ("confidence", "accuracy", "count")
        )
        axis.vlines(confidence, confidence, accuracy, color=colour, linewidth=1, alpha=0.5)
        axis.plot(confidence, accuracy, color=colour, linewidth=1, alpha=0.4)
        area = 12 + 150 * count / count.sum()
        axis.scatter(confidence, accuracy, s=area, color=colour, label=name, linewidths=0, alpha=0.85)
    limits = (-0.03, 1.03)
    axis.set(xlim=limits, ylim=limits, xlabel="confidence (dot area: share of images)", ylabel="share right")
    axis.legend(loc="upper left")
    return figure
