"""The picture of a suite: every run as a dot, the mean as a bar, the paper's value as a hollow diamond."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.suite_summary import COLUMNS, Summary
from experiments.suites import F1, PAPER, VALIDITY
from metrics.names import CONSTANT, RANDOM, TEACHER

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8c8c8c", "#222222"


def plot_suite(lines: Sequence[Summary], path: Path, title: str) -> None:
    """Write the picture as PNG.

    Args:
        lines: Lines of the table.
        path: The file.
        title: What is shown.
    """
    columns = [name for name in (VALIDITY, F1) if any(name in line.scores for line in lines)]
    figure = Figure(figsize=(2.6 + 4.4 * max(1, len(columns)), 1.5 + 0.42 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, max(1, len(columns)), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=False):
        _draw(axes, lines, column)
    panels[0].set_yticks(range(len(lines)), [line.title for line in lines])
    panels[0].invert_yaxis()
    handles, labels = panels[-1].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        unique.values(), unique.keys(), loc="outside lower right", frameon=False, ncols=3, fontsize=9
    )
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=150, format="png")
    partial.replace(path)


def _draw(axes: Axes, lines: Sequence[Summary], column: str) -> None:
    for height, line in enumerate(lines):
        score = line.scores.get(column)
        if score is None:
            continue
        colour = GREY if line.name in (TEACHER, RANDOM, CONSTANT) else BLUE
        values = sorted(set(score.values))
        axes.scatter(
            values, [height] * len(values), s=26, color=colour, alpha=0.6, linewidths=0, label="a run"
        )
        axes.vlines(score.mean, height - 0.28, height + 0.28, color=colour, linewidth=2.4, label="mean")
        theirs = PAPER.get(line.name, {}).get(column)
        if theirs is not None:
            axes.scatter(
                [theirs],
                [height],
                s=44,
                marker="D",
                facecolors="none",
                edgecolors=ORANGE,
                label="paper, its own data",
            )
        if line.name == TEACHER:
            axes.axvline(score.mean, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.set_xlabel(COLUMNS[column], color=INK)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
