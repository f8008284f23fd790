"""Gain of one method over others against the size of the student."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from figures.style import BLUE, MUTED, ORANGE, new_figure, styled


@styled
def capacity_figure(gains: pd.DataFrame, title: str) -> Figure:
    """Draw a panel for each score: gains with their 95 % intervals over the image parameters, the smallest gap left.

    Args:
        gains: ``score``, ``over`` (one of at most two references), ``parameters``, ``size`` (share of the
            teacher's), ``value``, ``low`` and ``high``, in the order to draw.
        title: What is shown.
    """
    panels, references = list(gains["score"].unique()), list(gains["over"].unique())
    figure = new_figure(1.0 + 3.6 * len(panels), 3.4)
    for axis, score in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axis.axhline(0, color=MUTED, linewidth=1)
        own = gains[gains["score"] == score]
        for number, (reference, colour) in enumerate(zip(references, (ORANGE, BLUE), strict=False)):
            line = own[own["over"] == reference].sort_values("parameters", ascending=False)
            # Side by side, so that intervals do not hide each other.
            place = line["parameters"] * (1.04 if number else 0.96)
            ends = [line["value"] - line["low"], line["high"] - line["value"]]
            axis.errorbar(
                place, line["value"], yerr=ends, color=colour, marker="o", markersize=5, capsize=3, linewidth=1.4,
                label=f"over {reference}",
            )  # fmt: skip
        sizes = own.drop_duplicates("parameters")
        axis.set_xscale("log")
        axis.set_xticks(sizes["parameters"], _labels(sizes))
        axis.minorticks_off()
        axis.invert_xaxis()
        axis.set_xlabel("image parameters of the student,\nand as a share of the teacher's")
        axis.set_title(score, fontsize=10)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _labels(sizes: pd.DataFrame) -> Sequence[str]:
    return [
        f"{count / 1e3:.0f} k\n{size}" for count, size in zip(sizes["parameters"], sizes["size"], strict=True)
    ]
