"""Write the PNG plots of a finished run: training curves and sample images with predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from datamodules import FetalDataModule
from datamodules.pairs.image_reading import read_image
from experiments.report.read_run import read_run
from experiments.report.training import CORRELATION, SCALE, SCORES, TERMS, WEIGHT, training_figure
from figures.images import image_figure
from figures.style import save_png
from metrics.names import STUDENT
from models.files import atomic

IMAGES = 12


def samples_figure(data: FetalDataModule, samples: Sequence[Mapping[str, Any]], benchmark: str) -> Figure:
    """Draw images of a benchmark with the student's predictions: half right, half wrong where there are any.

    Heads that are not assessed are left out: they are neither.
    """
    samples = [row for row in samples if row.get("assessed", True)]
    wrong = [row for row in samples if not row["correct"]][: IMAGES // 2]
    right = [row for row in samples if row["correct"]]
    right = right[:: max(1, len(right) // (IMAGES - len(wrong)))][: IMAGES - len(wrong)]
    records = {record.name: record for record in data.evaluation_records(benchmark, "all")}
    shown = right + wrong
    return image_figure(
        [np.asarray(read_image(records[row["name"]].image)) for row in shown],
        [f"{row['target']}\n→ {row['prediction']}" for row in shown],
        [row["correct"] for row in shown],
    )


def write_all(folder: Path, data: FetalDataModule | None) -> None:
    """Write every plot that the run's files allow into ``plots/``."""
    run = read_run(folder)
    drawn = {
        "training": training_figure(run, WEIGHT, TERMS, SCALE, CORRELATION),
        "validation": training_figure(run, SCORES),
    }
    for name in (benchmark.name for benchmark in run.benchmarks()):
        samples = run.details(STUDENT, name).get("samples")
        if data is not None and samples:
            drawn[f"samples-{name}"] = samples_figure(data, samples, name)
    for name, figure in drawn.items():
        if figure is not None:
            with atomic(folder / "plots" / f"{name}.png") as partial:
                save_png(figure, partial)
