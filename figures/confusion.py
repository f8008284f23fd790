"""Confusion matrix, and the change between two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from figures.style import BLUE, INK, RED, brief, new_figure, styled


@styled
def confusion_figure(
    counts: ArrayLike, classes: Sequence[str], title: str, f1: Mapping[str, float] | None = None
) -> Figure:
    """Draw a confusion matrix, shaded by the share of each true class, with shares and counts.

    A class without images has no row, and a column marked with a star only where it was predicted.

    Args:
        counts: Counts [C, C], rows are true classes and columns predicted ones.
        classes: Names of the C classes.
        title: What is shown.
        f1: F1 of every class that occurs.
    """
    matrix = np.asarray(counts)
    share = _shares(matrix)
    rows, columns = _shown(matrix)
    names = brief([classes[row] for row in rows])
    names = [f"{name} ({matrix[row].sum()})" for name, row in zip(names, rows, strict=True)]
    if f1 is not None:
        names = [f"{name}\nF1 {f1[classes[row]]:.2f}" for name, row in zip(names, rows, strict=True)]

    def cell(row: int, column: int) -> tuple[str, str, float]:
        count, value = matrix[row, column], share[row, column]
        return f"{value:.0%}\n{count}" if count else "", BLUE, value

    return _draw(cell, rows, columns, names, classes, title)


@styled
def confusion_change_figure(
    before: ArrayLike, after: ArrayLike, classes: Sequence[str], title: str
) -> Figure:
    """Draw how the shares of each true class changed, in percentage points: blue is better, red worse.

    Args:
        before: Counts [C, C] of one model, rows are true classes and columns predicted ones.
        after: Counts [C, C] of another one on the same images.
        classes: Names of the C classes.
        title: What is shown.
    """
    matrices = np.asarray(before), np.asarray(after)
    rows, columns = _shown(matrices[0] + matrices[1])
    change = _shares(matrices[1]) - _shares(matrices[0])

    def cell(row: int, column: int) -> tuple[str, str, float]:
        value = change[row, column]
        better = value >= 0 if row == column else value <= 0
        text = f"{100 * value:+.0f}".replace("-", "\N{MINUS SIGN}") if abs(value) >= 0.005 else ""
        return text, BLUE if better else RED, min(1.0, 2.5 * abs(value))

    return _draw(cell, rows, columns, brief([classes[row] for row in rows]), classes, title)


def _shown(counts: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Return the classes that occur, and these with the others that were predicted."""
    rows = np.flatnonzero(counts.sum(axis=1)).tolist()
    return rows, rows + [c for c in np.flatnonzero(counts.sum(axis=0)).tolist() if c not in rows]


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _draw(
    cell: Callable[[int, int], tuple[str, str, float]], rows: Sequence[int], columns: Sequence[int],
    row_names: Sequence[str], classes: Sequence[str], title: str,
) -> Figure:  # fmt: skip
    """Draw the cells of these classes; `cell` returns text, colour and strength from 0 to 1."""
    figure = new_figure(1.6 + 0.5 * max(len(columns), 5), 1.5 + 0.45 * len(rows), title)
    axis = figure.add_subplot()
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            text, colour, strength = cell(row, column)
            box = Rectangle((x - 0.5, y - 0.5), 1, 1, color=colour, alpha=0.7 * strength, linewidth=0)
            axis.add_patch(box)
            axis.text(x, y, text, ha="center", va="center", fontsize=9, color=INK, linespacing=1.1)
    names = brief([classes[column] for column in columns])
    names = [name if column in rows else f"{name} *" for name, column in zip(names, columns, strict=True)]
    note = "   (* does not occur)" if len(columns) > len(rows) else ""
    axis.set(
        xlim=(-0.5, len(columns) - 0.5),
        ylim=(len(rows) - 0.5, -0.5),
        xlabel=f"predicted{note}",
        ylabel="true",
    )
    axis.set_xticks(range(len(columns)), names, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(rows)), row_names)
    axis.grid(visible=False)
    return figure
