"""Figures of the clinical evaluation, in colours that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import WandbLogger
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metrics import within_chart
from metrics.biometry import AGES_DAYS, HIGHEST_HC_MM, LOWEST_HC_MM, in_reference_range
from metrics.growth_chart import LOWER, MEDIAN, UPPER, head_circumference_mm

# Okabe and Ito's palette.
BLUE, VERMILION, GREY, INK = "#0072B2", "#D55E00", "#8c8c8c", "#222222"
DPI = 150


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: nothing global to leak, and no display needed
    axes = figure.add_subplot()
    axes.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def growth_chart_figure(age_days: NDArray[np.int64], hc_mm: NDArray[np.float64], title: str) -> Figure:
    """Draw predicted ages against true head circumferences, over the WHO growth chart.

    Args:
        age_days: Predicted gestational ages in days, [N].
        hc_mm: True head circumferences in mm, [N].
        title: What is shown, counts and score included.

    Returns:
        The figure; valid and invalid predictions differ in colour and in marker.
    """
    figure, axes = _figure(7.2, 5.2)
    weeks = np.arange(13 * 7, 41 * 7) / 7
    low, median, high = (head_circumference_mm(weeks, centile) for centile in (LOWER, MEDIAN, UPPER))
    axes.fill_between(weeks, low, high, color=BLUE, alpha=0.14, linewidth=0, label="2.5th to 97.5th centile")
    axes.plot(weeks, median, color=INK, linewidth=1.2, label="median")
    assessed, valid = in_reference_range(hc_mm), within_chart(hc_mm, age_days / 7)
    groups = (
        (~assessed, "s", GREY, "not assessed"),
        (assessed & ~valid, "^", VERMILION, "outside the chart"),
        (assessed & valid, "o", BLUE, "within the chart"),
    )
    for chosen, marker, colour, label in groups:
        if chosen.any():
            axes.scatter(
                age_days[chosen] / 7,
                hc_mm[chosen],
                s=24,
                marker=marker,
                color=colour,
                alpha=0.75,
                label=f"{label} ({int(chosen.sum())})",
                edgecolors="white",
                linewidths=0.4,
            )
    for limit in (LOWEST_HC_MM, HIGHEST_HC_MM):
        axes.axhline(limit, color=GREY, linewidth=0.8, linestyle=":")
    axes.axvspan(AGES_DAYS[0] / 7, AGES_DAYS[-1] / 7, ymax=0.012, color=GREY, alpha=0.6, linewidth=0)
    top = max(370.0, float(hc_mm.max()) + 10)
    axes.set(xlim=(13, 40), ylim=(min(60.0, float(hc_mm.min()) - 10), top), xticks=range(14, 41, 2))
    axes.set_xlabel("gestational age read by the model (weeks; bar: ages on offer)", color=INK)
    axes.set_ylabel("measured head circumference (mm; dotted: assessed range)", color=INK)
    axes.set_title(title, fontsize=10, color=INK, loc="left", wrap=True)
    axes.legend(frameon=False, fontsize=9, loc="best")
    return figure


def confusion_figure(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], f1: Mapping[str, float], title: str
) -> Figure:
    """Draw a confusion matrix, shaded by the share of each true class, with counts.

    Args:
        confusion: Counts [C, C], rows are true classes and columns predicted ones.
        classes: Names of the C classes.
        f1: F1 of every class that occurs.
        title: What is shown.

    Returns:
        The figure. Rows are the classes that occur; a class that does not occur has a column when it was
        predicted.
    """
    counts = np.asarray(confusion)
    rows = [c for c in range(len(classes)) if counts[c].sum()]
    columns = rows + [c for c in range(len(classes)) if c not in rows and counts[:, c].sum()]
    shown = counts[np.ix_(rows, columns)]
    share = shown / shown.sum(axis=1, keepdims=True)
    figure, axes = _figure(2.6 + 0.95 * len(columns), 1.9 + 0.72 * len(rows))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(shown):
        colour = "white" if share[row, column] > 0.55 else INK
        text = f"{share[row, column]:.0%}\n{count}" if count else "0"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    absent = [" *" if c not in rows else "" for c in columns]
    labels = [classes[c] + mark for c, mark in zip(columns, absent, strict=True)]
    axes.set_xticks(range(len(columns)), labels, rotation=30, ha="right", rotation_mode="anchor")
    names = [f"{classes[c]} ({counts[c].sum()})\nF1 {f1[classes[c]]:.2f}" for c in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_xlabel("predicted" + ("   (* does not occur)" if any(absent) else ""), color=INK)
    axes.set_ylabel("true", color=INK)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(f"{title}\nn = {int(shown.sum())}, macro F1 {np.mean(list(f1.values())):.3f}", fontsize=10)
    return figure


def reliability_figure(bins: Sequence[Mapping[str, float]], ece: float, title: str) -> Figure:
    """Draw how often predictions of each confidence are right.

    Args:
        bins: ``confidence``, ``accuracy`` and ``count`` of each bin (see `metrics.calibration`).
        ece: Expected calibration error.
        title: What is shown.

    Returns:
        The figure; the area of a dot is the number of its images.
    """
    figure, axes = _figure(4.8, 4.8)
    confidence, accuracy, count = (
        np.array([point[key] for point in bins]) for key in ("confidence", "accuracy", "count")
    )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
    axes.vlines(confidence, confidence, accuracy, color=VERMILION, linewidth=1.5, alpha=0.7, label="gap")
    axes.scatter(
        confidence, accuracy, s=20 + 380 * count / count.max(), color=BLUE, edgecolors="white", zorder=3
    )
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set_xlabel("confidence (dot area: number of images)", color=INK)
    axes.set_ylabel("share of right predictions", color=INK)
    axes.set_title(f"{title}\nexpected calibration error {ece:.3f}", fontsize=10, loc="left", color=INK)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def publish_figure(figure: Figure, trainer: Trainer, name: str) -> Path:
    """Write a figure to ``plots/NAME.png`` in the run's folder and to every W&B logger.

    Args:
        figure: The figure.
        trainer: Knows the folder and the loggers.
        name: File name without ending, and W&B key under ``plots/``.

    Returns:
        The PNG file.
    """
    path = Path(trainer.default_root_dir) / "plots" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=DPI, format="png")
    partial.replace(path)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"plots/{name}", [str(path)], step=trainer.global_step)
    return path
