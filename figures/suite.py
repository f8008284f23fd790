"""Scores of an experiment suite, and the gain of one method over others against the size of the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from figures.style import BLUE, MUTED, ORANGE, new_figure, styled


@styled
def suite_figure(
    scores: pd.DataFrame, paper: Mapping[tuple[str, str], float], baselines: Sequence[str], title: str
) -> Figure:
    """Draw every run as a dot, their mean as a bar, the paper's value as a hollow diamond: a panel for each column.

    Args:
        scores: ``line``, ``column`` and ``value`` of every run, in the order to draw, lines from top to bottom.
        paper: (line, column) -> the paper's score.
        baselines: Lines in grey; the mean of the first is also a dashed line through all.
        title: What is shown.
    """
    lines, columns = list(scores["line"].unique()), list(scores["column"].unique())
    width = max(1, len(columns))
    figure = new_figure(2.6 + 4.4 * width, 1.5 + 0.42 * len(lines))
    panels = figure.subplots(1, width, sharey=True, squeeze=False)[0]
    for axis, column in zip(panels, columns, strict=False):
        for line, values in scores[scores["column"] == column].groupby("line", sort=False)["value"]:
            height, mean, dots = lines.index(line), values.mean(), values.unique()
            colour = MUTED if line in baselines else BLUE
            heights = [height] * len(dots)
            axis.scatter(dots, heights, s=26, color=colour, alpha=0.6, linewidths=0, label="a run")
            axis.vlines(mean, height - 0.28, height + 0.28, color=colour, linewidth=2.4, label="mean")
            if (line, column) in paper:
                axis.scatter(
                    paper[line, column], height, s=44, marker="D", facecolors="none", edgecolors=ORANGE,
                    label="paper, its own data",
                )  # fmt: skip
            if line in baselines[:1]:
                axis.axvline(mean, color=MUTED, linewidth=1, linestyle="--", zorder=0)
        axis.set_xlabel(column)
        axis.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(lines)), lines)
    panels[0].invert_yaxis()
    handles, labels = panels[-1].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower right", ncols=3)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


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
        named = sizes[["parameters", "size"]].itertuples(index=False)
        axis.set_xticks(sizes["parameters"], [f"{count / 1e3:.0f} k\n{size}" for count, size in named])
        axis.minorticks_off()
        axis.invert_xaxis()
        axis.set_xlabel("image parameters of the student,\nand as a share of the teacher's")
        axis.set_title(score, fontsize=10)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure
