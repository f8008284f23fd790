"""Pictures for the loggers that take them, W&B, TensorBoard and MLflow, and tables for the latter two."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from lightning import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from callbacks.tracking.wandb_run import STEP_AXIS, active_run

Samples = list[tuple[Image.Image, str]]
"""Images of one name and their captions."""


def takes_pictures(trainer: Trainer) -> bool:
    """Return whether a logger of this process takes pictures."""
    return active_run(trainer) is not None or bool(_others(trainer))


def log_pictures(trainer: Trainer, pictures: Mapping[str, Figure | Path | Samples], step: int) -> None:
    """Send figures, image files and samples to the loggers by their names."""
    run = active_run(trainer)
    if run is not None and pictures:
        sent = {
            name: [wandb.Image(one, caption=words, file_type="jpg") for one, words in given]
            if isinstance(given, list)
            else wandb.Image(str(given) if isinstance(given, Path) else given)
            for name, given in pictures.items()
        }
        run.log({**sent, STEP_AXIS: step})
    for name, given in pictures.items():
        several = [one.convert("RGB") for one, _ in given] if isinstance(given, list) else [_image(given)]
        for logger in _others(trainer):
            run = logger.experiment
            if isinstance(logger, TensorBoardLogger):
                run.add_images(name, np.stack([np.asarray(one) for one in several]), step, dataformats="NHWC")
            elif isinstance(logger, MLFlowLogger):
                for number, one in enumerate(several):
                    key = name if len(several) == 1 else f"{name}/{number}"
                    run.log_image(logger.run_id, one, key=key, step=step)


def log_table(
    trainer: Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Send a table: to TensorBoard as Markdown, to MLflow as a JSON artifact."""
    for logger in _others(trainer):
        run = logger.experiment
        if isinstance(logger, TensorBoardLogger):
            cells = [[_cell(value) for value in row] for row in [columns, ["---"] * len(columns), *rows]]
            run.add_text(name, "\n".join(f"| {' | '.join(row)} |" for row in cells), step)
        elif isinstance(logger, MLFlowLogger):
            data = {column: [row[k] for row in rows] for k, column in enumerate(columns)}
            run.log_table(logger.run_id, data, f"{name}-{step}.json")


def _others(trainer: Trainer) -> list[Any]:
    """Return the loggers of this process that take pictures, without W&B's; none on ranks above 0."""
    kinds = (TensorBoardLogger, MLFlowLogger)
    return [one for one in trainer.loggers if isinstance(one, kinds)] if trainer.is_global_zero else []


def _image(picture: Figure | Path) -> Image.Image:
    if isinstance(picture, Figure):
        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return Image.open(picture).convert("RGB")


def _cell(value: Any) -> str:
    """Write a cell so that it is shown as it is: names come from data."""
    return html.escape(str(value)).replace("|", "&#124;").replace("\n", " ")
