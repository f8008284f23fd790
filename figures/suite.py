"""Scores of an experiment suite: every run a dot, their mean a bar, the paper's value a hollow diamond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from figures.style import BLUE, MUTED, ORANGE, new_figure, styled


@dataclass(frozen=True)
class SuiteLine:
    """One line of the figure.

    Attributes:
        title: Name of the experiment or baseline.
        scores: Column -> score of every run.
        paper: Column -> the paper's score.
        is_baseline: Drawn in grey.
        is_yardstick: Its mean is also a dashed line through all lines.
    """

    title: str
    scores: dict[str, Sequence[float]]
    paper: dict[str, float] = field(default_factory=dict)
    is_baseline: bool = False
    is_yardstick: bool = False


@styled
def suite_figure(lines: Sequence[SuiteLine], columns: Sequence[str], title: str) -> Figure:
    """Draw a panel for each column.

    Args:
        lines: Lines from top to bottom.
        columns: Columns to draw, by the names on their axes.
        title: What is shown.
    """
    figure = new_figure(2.6 + 4.4 * max(1, len(columns)), 1.5 + 0.42 * len(lines))
    panels = figure.subplots(1, max(1, len(columns)), sharey=True, squeeze=False)[0]
    for axis, column in zip(panels, columns, strict=False):
        for height, line in enumerate(lines):
            if column not in line.scores:
                continue
            colour = MUTED if line.is_baseline else BLUE
            values, mean = sorted(set(line.scores[column])), float(np.mean(line.scores[column]))
            heights = [height] * len(values)
            axis.scatter(values, heights, s=26, color=colour, alpha=0.6, linewidths=0, label="a run")
            axis.vlines(mean, height - 0.28, height + 0.28, color=colour, linewidth=2.4, label="mean")
            if column in line.paper:
                axis.scatter(
                    line.paper[column], height, s=44, marker="D", facecolors="none", edgecolors=ORANGE,
                    label="paper, its own data",
                )  # fmt: skip
            if line.is_yardstick:
                axis.axvline(mean, color=MUTED, linewidth=1, linestyle="--", zorder=0)
        axis.set_xlabel(column)
        axis.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(lines)), [line.title for line in lines])
    panels[0].invert_yaxis()
    handles, labels = panels[-1].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower right", ncols=3)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure
