"""The PNG plots of a run, drawn from its own files: metrics.csv and results.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules import FetalDataModule
from datamodules.image_reading import read_image
from experiments.run_folder import read_metrics
from metrics.names import (
    HC18,
    HEADLINE,
    LOGIT_SCALE,
    OFF_DIAGONAL_WEIGHT,
    PLANES,
    SUBPLANES,
    TEACHER,
    VAL_COMPOSITE,
    validation_name,
)

# Okabe and Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#7f7f7f"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED)
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
}
BENCHMARK_TITLES = {PLANES: "five-plane F1", SUBPLANES: "sub-plane F1", HC18: "HC18 validity (share)"}


def _series(frame: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    if name not in frame:
        return np.array([]), np.array([])
    rows = frame[["step", name]].dropna()
    return rows["step"].to_numpy(), rows[name].to_numpy()


def plot_training(frame: pd.DataFrame) -> Figure | None:
    """Draw the off-diagonal weight, the loss terms and the logit scale over optimiser steps."""
    terms = [name for name in frame if str(name).startswith("train/loss/")]
    if not terms:
        return None
    steps, weight = _series(frame, OFF_DIAGONAL_WEIGHT)
    panels: list[Callable[[Axes], None]] = [lambda axis: _draw_terms(axis, frame, terms)]
    if len(steps):
        panels.insert(0, lambda axis: _draw_weight(axis, steps, weight))
    if LOGIT_SCALE in frame:
        panels.append(lambda axis: _draw_line(axis, frame, LOGIT_SCALE, "logit scale"))
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, 2.6 * len(panels)), sharex=True, layout="constrained", squeeze=False
    )
    for draw, axis in zip(panels, axes[:, 0], strict=True):
        draw(axis)
    axes[-1, 0].set_xlabel("optimiser step")
    return figure


def _draw_weight(axis: Axes, steps: np.ndarray, weight: np.ndarray) -> None:
    axis.plot(steps, weight, color="black")
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.fill_between(steps, weight, 0, where=weight > 0, color=BLUE, alpha=0.2, label="attract")
    axis.fill_between(steps, weight, 0, where=weight < 0, color=RED, alpha=0.2, label="repel")
    axis.set_ylabel("off-diagonal weight")
    axis.legend(frameon=False, loc="upper right")


def _draw_terms(axis: Axes, frame: pd.DataFrame, terms: list[str]) -> None:
    ordered = sorted(terms, key=lambda name: (not name.endswith("/total"), name))
    for colour, name in zip(("black", *COLOURS, *COLOURS), ordered, strict=False):
        axis.plot(*_series(frame, name), color=colour, label=name.rsplit("/", 1)[1], linewidth=1.3)
    steps, values = _series(frame, "val/loss/total")
    if len(steps):
        axis.plot(steps, values, "o--", color=GREY, label="total, validation", markersize=4)
    axis.set_ylabel("loss")
    axis.legend(frameon=False, ncols=2)


def _draw_line(axis: Axes, frame: pd.DataFrame, name: str, label: str) -> None:
    axis.plot(*_series(frame, name), color=GREEN)
    axis.set_ylabel(label)


def plot_validation(frame: pd.DataFrame) -> Figure | None:
    """Draw the validation scores over epochs, the teacher's as dashed lines."""
    if VAL_COMPOSITE not in frame:
        return None
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    rows = frame[["epoch", VAL_COMPOSITE]].dropna()
    axis.plot(rows["epoch"] + 1, rows[VAL_COMPOSITE], "o-", color="black", label="composite (selects)")
    for colour, (benchmark, key) in zip(COLOURS, HEADLINE.items(), strict=False):
        factor = 0.01 if benchmark == HC18 else 1.0
        name = validation_name("student", benchmark, key)
        if name in frame:
            rows = frame[["epoch", name]].dropna()
            axis.plot(
                rows["epoch"] + 1, rows[name] * factor, "o-", color=colour, label=BENCHMARK_TITLES[benchmark]
            )
        teacher = validation_name(TEACHER, benchmark, key)
        if teacher in frame and frame[teacher].notna().any():
            axis.axhline(frame[teacher].dropna().iloc[0] * factor, color=colour, linestyle="--", linewidth=1)
    axis.set(xlabel="epoch", ylabel="score on validation patients", ylim=(0, 1.02))
    axis.legend(frameon=False, title="dashed: teacher", ncols=2)
    return figure


def plot_samples(
    data: FetalDataModule, samples: list[dict[str, Any]], benchmark: str, count: int = 12
) -> Figure:
    """Draw images with the student's prediction: half of them right, half wrong where there are any.

    Args:
        data: The data module that knows the images.
        samples: Rows with ``name``, ``target``, ``prediction`` and ``correct``.
        benchmark: Whose records to look in.
        count: Number of images.
    """
    wrong = [row for row in samples if not row["correct"]][: count // 2]
    right = [row for row in samples if row["correct"]]
    right = right[:: max(1, len(right) // (count - len(wrong)))][: count - len(wrong)]
    records = {record.name: record for record in data.evaluation_records(benchmark, "all")}
    figure, axes = plt.subplots(3, count // 3, figsize=(11, 8.6), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, row in zip(axes.flat, right + wrong, strict=False):
        axis.imshow(np.asarray(read_image(records[row["name"]].image)), cmap="gray")
        axis.set_title(
            f"{row['target']}\n-> {row['prediction']}", fontsize=9, color=GREEN if row["correct"] else RED
        )
    return figure


def save(figure: Figure | None, path: Path) -> None:
    """Write a figure as PNG and release it."""
    if figure is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def write_all(folder: Path, data: FetalDataModule | None) -> None:
    """Write every plot that the run's files allow into ``plots/``."""
    frame = read_metrics(folder)
    details = json.loads((folder / "results.json").read_text())["details"]
    with plt.rc_context(STYLE):
        save(plot_training(frame), folder / "plots" / "training.png")
        save(plot_validation(frame), folder / "plots" / "validation.png")
        for benchmark in (PLANES, SUBPLANES, HC18):
            rows = details.get("student", {}).get(benchmark, {}).get("samples")
            if data is not None and rows:
                save(plot_samples(data, rows, benchmark), folder / "plots" / f"samples-{benchmark}.png")
