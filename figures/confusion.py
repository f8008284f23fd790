"""Confusion matrix, and the change between two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from figures.style import BLUE, INK, RED, brief, new_figure, styled

Counts = NDArray[np.int64]


@styled
def confusion_figure(
    counts: ArrayLike, classes: Sequence[str], title: str, f1: Mapping[str, float] | None = None
) -> Figure:
    """Draw a confusion matrix, shaded by the share of each true class, with shares and counts.

    Args:
        counts: Counts [C, C], rows are true classes and columns predicted ones.
        classes: Names of the C classes.
        title: What is shown.
        f1: F1 of every class that occurs.

    Returns:
        The figure. Rows are the classes that occur, with their numbers of images; a class that does not occur
        has a column, marked with a star, when it was predicted.
    """
    matrix = np.asarray(counts)
    rows, columns = _shown(matrix)
    share = _shares(matrix)[np.ix_(rows, columns)]
    part = matrix[np.ix_(rows, columns)]
    scores = ["" if f1 is None else f"\nF1 {f1[classes[row]]:.2f}" for row in rows]
    names = brief([classes[row] for row in rows])
    labels = [
        f"{name} ({matrix[row].sum()}){score}" for name, row, score in zip(names, rows, scores, strict=True)
    ]

    def cell(row: int, column: int) -> tuple[str, str, float]:
        count, value = part[row, column], share[row, column]
        return f"{value:.0%}\n{count}" if count else "", BLUE, value

    return _draw(cell, labels, _column_names(classes, rows, columns), title)


@styled
def confusion_change_figure(
    before: ArrayLike, after: ArrayLike, classes: Sequence[str], title: str
) -> Figure:
    """Draw how the shares of each true class changed, in percentage points.

    Args:
        before: Counts [C, C] of one model, rows are true classes and columns predicted ones.
        after: Counts [C, C] of another one on the same images.
        classes: Names of the C classes.
        title: What is shown.

    Returns:
        The figure. Blue is better and red worse: more on the diagonal, less elsewhere.
    """
    matrices = np.asarray(before), np.asarray(after)
    rows, columns = _shown(matrices[0] + matrices[1])
    change = (_shares(matrices[1]) - _shares(matrices[0]))[np.ix_(rows, columns)]

    def cell(row: int, column: int) -> tuple[str, str, float]:
        value = change[row, column]
        better = value >= 0 if row == column else value <= 0
        text = f"{100 * value:+.0f}".replace("-", "\N{MINUS SIGN}") if abs(value) >= 0.005 else ""
        return text, BLUE if better else RED, min(1.0, 2.5 * abs(value))

    return _draw(cell, brief([classes[row] for row in rows]), _column_names(classes, rows, columns), title)


def _shown(counts: Counts) -> tuple[list[int], list[int]]:
    """Return the classes that occur, and these with the others that were predicted."""
    rows = np.flatnonzero(counts.sum(axis=1)).tolist()
    return rows, rows + [c for c in np.flatnonzero(counts.sum(axis=0)).tolist() if c not in rows]


def _shares(counts: Counts) -> NDArray[np.float64]:
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _column_names(classes: Sequence[str], rows: Sequence[int], columns: Sequence[int]) -> list[str]:
    names = brief([classes[column] for column in columns])
    return [name if column in rows else f"{name} *" for name, column in zip(names, columns, strict=True)]


def _draw(
    cell: Callable[[int, int], tuple[str, str, float]], rows: list[str], columns: list[str], title: str
) -> Figure:
    """Draw cells given as (text, colour, strength from 0 to 1)."""
    figure = new_figure(1.6 + 0.5 * max(len(columns), 5), 1.5 + 0.45 * len(rows), title)
    axis = figure.add_subplot()
    for row in range(len(rows)):
        for column in range(len(columns)):
            text, colour, strength = cell(row, column)
            corner = column - 0.5, row - 0.5
            axis.add_patch(Rectangle(corner, 1, 1, color=colour, alpha=0.7 * strength, linewidth=0))
            axis.text(column, row, text, ha="center", va="center", fontsize=9, color=INK, linespacing=1.1)
    absent = any(name.endswith(" *") for name in columns)
    axis.set(
        xlim=(-0.5, len(columns) - 0.5),
        ylim=(len(rows) - 0.5, -0.5),
        xlabel="predicted" + ("   (* does not occur)" if absent else ""),
        ylabel="true",
    )
    axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(rows)), rows)
    axis.grid(visible=False)
    return figure
