"""The figures of training, scores and confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from experiments.report.read_run import Run
from experiments.report.svg import (
    BLUE,
    CYCLE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RED,
    brief,
    looks,
    new_figure,
)
from experiments.report.training import applied_weights, dynamics, series
from metrics import within_chart
from metrics.biometry import HIGHEST_HC_MM, LOWEST_HC_MM
from metrics.growth_chart import LOWER, MEDIAN, UPPER, head_circumference_mm
from metrics.names import (
    DIAGONAL_CORRELATION,
    HC18,
    HEADLINE,
    OFF_DIAGONAL_CORRELATION,
    PLANES,
    STUDENT,
    SUBPLANES,
    TEACHER,
    VAL_COMPOSITE,
    validation_name,
)

SCORES = {
    VAL_COMPOSITE: ("composite, selects", INK, 1.0),
    validation_name(STUDENT, PLANES, HEADLINE[PLANES]): ("five-plane F1", BLUE, 1.0),
    validation_name(STUDENT, SUBPLANES, HEADLINE[SUBPLANES]): ("sub-plane F1", ORANGE, 1.0),
    validation_name(STUDENT, HC18, HEADLINE[HC18]): ("HC18 validity (share)", GREEN, 0.01),
}


def over_steps(axis: Axes, run: Run) -> None:
    """Give an axis all steps of the run, shade the repelling part and mark where it begins."""
    last = float(run.history["step"].max())
    axis.set(xlim=(0, 1.02 * last), xlabel="optimiser step")
    crossing = dynamics(run).crossing
    if crossing is not None:
        axis.axvline(crossing, color=RED, linewidth=1.1, linestyle="--")
        axis.axvspan(crossing, last, color=RED, alpha=0.08, linewidth=0)


def weight_figure(run: Run) -> Figure | None:
    """Draw the off-diagonal weight with its zero crossing; None without a schedule."""
    steps, weight = applied_weights(run)
    if not len(steps):
        return None
    figure = new_figure(height=2.8)
    axis = figure.add_subplot()
    axis.plot(steps, weight, color=INK, linewidth=1.6)
    axis.axhline(0, color=MUTED, linewidth=0.8)
    axis.fill_between(
        steps,
        weight,
        0,
        where=weight > 0,
        interpolate=True,
        color=BLUE,
        alpha=0.25,
        linewidth=0,
        label="attract",
    )
    axis.fill_between(
        steps, weight, 0, where=weight < 0, interpolate=True, color=RED, alpha=0.3, linewidth=0, label="repel"
    )
    over_steps(axis, run)
    crossing = dynamics(run).crossing
    if crossing is not None:
        axis.annotate(
            f"zero at step {crossing:.0f}",
            (crossing, 0),
            xytext=(5, 6),
            textcoords="offset points",
            color=RED,
        )
    axis.set(ylabel="weight", title="Off-diagonal weight")
    axis.legend(loc="upper right")
    return figure


def scores_figure(run: Run) -> Figure | None:
    """Draw the validation scores over steps, the teacher's as dashed lines; None when none were logged."""
    present = {name: look for name, look in SCORES.items() if len(series(run, name)[0])}
    if not present:
        return None
    figure = new_figure(height=3.2)
    axis = figure.add_subplot()
    over_steps(axis, run)
    for name, (label, colour, factor) in present.items():
        steps, values = series(run, name)
        axis.plot(steps, values * factor, "o-", color=colour, label=label, markersize=3.5, linewidth=1.4)
        teacher = series(run, name.replace("val/", f"val/{TEACHER}/", 1))[1]
        if len(teacher):
            axis.axhline(teacher[0] * factor, color=colour, linewidth=1, linestyle=":")
    best = dynamics(run).best
    if best is not None:
        axis.plot(best.step, best.composite, "o", color=INK, markersize=9, fillstyle="none")
    axis.set(ylabel="score", ylim=(0, 1.02), title="Scores on validation patients")
    # Below: four lines, the teacher's and the crossing leave no free corner.
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def losses_figure(run: Run) -> Figure | None:
    """Draw the unweighted loss terms; None when none were logged."""
    names = sorted(name for name in run.history if str(name).startswith("train/loss/"))
    names = [name for name in names if len(series(run, name)[0])]
    if not names:
        return None
    figure = new_figure(height=2.8)
    axis = figure.add_subplot()
    over_steps(axis, run)
    names.sort(key=lambda name: (not name.endswith("/total"), name))
    for name, (colour, line) in zip(names, looks(INK, *CYCLE), strict=False):
        axis.plot(*series(run, name), line, color=colour, label=name.rsplit("/", 1)[1], linewidth=1.2)
    axis.set(ylabel="loss", title="Loss terms, unweighted")
    axis.legend(ncols=2)
    return figure


def correlation_figure(run: Run) -> Figure | None:
    """Draw how far the student's logits follow the teacher's; None when that was not logged."""
    looks = {
        DIAGONAL_CORRELATION: ("matched pairs", BLUE),
        OFF_DIAGONAL_CORRELATION: ("mismatched pairs", RED),
    }
    if not any(len(series(run, name)[0]) for name in looks):
        return None
    figure = new_figure(height=2.8)
    axis = figure.add_subplot()
    over_steps(axis, run)
    for name, (label, colour) in looks.items():
        axis.plot(*series(run, name), "o-", color=colour, label=label, markersize=3.5, linewidth=1.4)
    axis.axhline(0, color=MUTED, linewidth=0.8)
    axis.set(ylabel="correlation", title="Student's logits against the teacher's")
    axis.legend()
    return figure


def overlay_figure(runs: Sequence[Run], titles: Sequence[str]) -> Figure | None:
    """Draw the composite score of several runs over steps, filled dots where the weight repels."""
    shown = [(run, title) for run, title in zip(runs, titles, strict=True) if dynamics(run).evaluations]
    if len(shown) < 2:
        return None
    figure = new_figure(height=3.2)
    axis = figure.add_subplot()
    for (run, title), (colour, line) in zip(shown, looks(*CYCLE), strict=False):
        found = dynamics(run)
        axis.plot(
            [p.step for p in found.evaluations], [p.composite for p in found.evaluations],
            line, color=colour, label=title, linewidth=1.4,
        )  # fmt: skip
        for point in found.evaluations:
            inside = colour if point.phase == "repel" else PAPER
            axis.plot(point.step, point.composite, "o", color=colour, markerfacecolor=inside, markersize=4.5)
        if found.crossing is not None:
            axis.axvline(found.crossing, color=colour, linewidth=1, linestyle="--")
    axis.set(
        xlabel="optimiser step",
        ylabel="composite score",
        title="Filled dots: repelling; dashed: weight crosses zero",
    )
    axis.legend()
    return figure


def confusion_figure(
    counts: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, difference: bool = False
) -> Figure:
    """Draw a confusion matrix of shares, or the difference of two in percentage points.

    Args:
        counts: Shares of each true class [R, C], 0 to 1; with `difference` the change, -1 to 1.
        rows: True classes.
        columns: Predicted classes; the true ones first, in the order of `rows`.
        title: What is shown.
        difference: Blue is better and red worse: more on the diagonal, less elsewhere.
    """
    figure = new_figure(1.6 + 0.48 * max(len(columns), 5), 1.1 + 0.4 * len(rows))
    axis = figure.add_subplot()
    for (row, column), value in np.ndenumerate(counts):
        better = value >= 0 if row == column else value <= 0
        colour = (BLUE if better else RED) if difference else BLUE
        strength = min(1.0, abs(float(value)) * (2.5 if difference else 1.0))
        axis.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, alpha=0.8 * strength, linewidth=0)
        )
        text = f"{100 * value:+.0f}" if difference else f"{100 * value:.0f}"
        if abs(value) >= 0.005:
            axis.text(column, row, text, ha="center", va="center", fontsize=9, color=INK)
    axis.set(
        xlim=(-0.5, len(columns) - 0.5),
        ylim=(len(rows) - 0.5, -0.5),
        xlabel="predicted",
        ylabel="true",
        title=title,
    )
    axis.set_xticks(range(len(columns)), brief(columns), rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(rows)), brief(rows))
    axis.grid(visible=False)
    return figure


def growth_figure(samples: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw the ages that a model read against measured head circumferences, over the WHO chart."""
    figure = new_figure(4.0, 3.7)
    axis = figure.add_subplot()
    weeks = np.linspace(13, 40, 80)
    low, median, high = (head_circumference_mm(weeks, centile) for centile in (LOWER, MEDIAN, UPPER))
    axis.fill_between(weeks, low, high, color=BLUE, alpha=0.16, linewidth=0, label="2.5th to 97.5th centile")
    axis.plot(weeks, median, color=MUTED, linewidth=1)
    age = np.array([row["age_days"] for row in samples]) / 7
    hc_mm = np.array([row["hc_mm"] for row in samples])
    assessed = np.array([row["assessed"] for row in samples])
    valid = within_chart(hc_mm, age)
    groups = (
        (~assessed, "s", MUTED, "not assessed"),
        (assessed & ~valid, "^", RED, "outside the chart"),
        (assessed & valid, "o", BLUE, "within"),
    )
    for chosen, marker, colour, label in groups:
        if chosen.any():
            axis.scatter(
                age[chosen], hc_mm[chosen], s=13, marker=marker, color=colour, alpha=0.75, linewidths=0,
                label=f"{label} ({int(chosen.sum())})",
            )  # fmt: skip
    for limit in (LOWEST_HC_MM, HIGHEST_HC_MM):
        axis.axhline(limit, color=MUTED, linewidth=0.7, linestyle=":")
    axis.set(
        xlim=(13, 40),
        ylim=(60, 370),
        xlabel="age read by the model (weeks)",
        ylabel="measured HC (mm)",
        title=title,
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=7.5)
    return figure


def reliability_figure(curves: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> Figure:
    """Draw how often predictions of each confidence are right, a curve a model.

    Args:
        curves: Model -> bins with ``confidence``, ``accuracy`` and ``count``.
        title: What is shown.
    """
    figure = new_figure(3.6, 3.4)
    axis = figure.add_subplot()
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    colours = {STUDENT: BLUE, TEACHER: ORANGE}
    for name, bins in curves.items():
        confidence, accuracy, count = (
            np.array([b[key] for b in bins]) for key in ("confidence", "accuracy", "count")
        )
        colour = colours.get(name, PURPLE)
        axis.plot(confidence, accuracy, "-", color=colour, linewidth=1, alpha=0.45)
        axis.scatter(
            confidence,
            accuracy,
            s=10 + 120 * count / count.sum(),
            color=colour,
            label=name,
            linewidths=0,
            alpha=0.85,
        )
    axis.set(
        xlim=(0, 1.03),
        ylim=(-0.03, 1.03),
        xlabel="confidence (dot area: share of images)",
        ylabel="share right",
        title=title,
    )
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.legend(loc="upper left")
    return figure
