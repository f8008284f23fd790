"""Scores of an experiment suite: every run a dot, their mean a bar, the paper's value a hollow diamond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from figures.style import BLUE, MUTED, ORANGE, new_figure, styled


@styled
def suite_figure(
    scores: pd.DataFrame, paper: Mapping[tuple[str, str], float], baselines: Sequence[str], title: str
) -> Figure:
    """Draw a panel for each column, with the lines from top to bottom.

    Args:
        scores: ``line``, ``column`` and ``value`` of every run, lines and columns in the order to draw.
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
