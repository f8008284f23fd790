"""Pictures and tables for the loggers that take them beside W&B: TensorBoard and MLflow."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

Picture = Figure | Image.Image | Path


def media_loggers(trainer: Trainer) -> list[Any]:
    """Return the loggers of this process that take pictures, without W&B's; none on ranks above 0."""
    kinds = (TensorBoardLogger, MLFlowLogger)
    return [one for one in trainer.loggers if isinstance(one, kinds)] if trainer.is_global_zero else []


def log_pictures(
    loggers: Sequence[Any], pictures: Mapping[str, Picture | Sequence[Image.Image]], step: int
) -> None:
    """Send pictures, or several of one name, by their names."""
    for name, given in pictures.items():
        several = [_image(one) for one in given] if isinstance(given, Sequence) else [_image(given)]
        for logger in loggers:
            run = logger.experiment
            if isinstance(logger, TensorBoardLogger):
                run.add_images(name, np.stack([np.asarray(one) for one in several]), step, dataformats="NHWC")
            elif isinstance(logger, MLFlowLogger):
                for number, one in enumerate(several):
                    key = name if len(several) == 1 else f"{name}/{number}"
                    run.log_image(logger.run_id, one, key=key, step=step)


def log_table(
    loggers: Sequence[Any], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Send a table: to TensorBoard as Markdown, to MLflow as a JSON artifact."""
    for logger in loggers:
        run = logger.experiment
        if isinstance(logger, TensorBoardLogger):
            cells = [[_cell(value) for value in row] for row in [columns, ["---"] * len(columns), *rows]]
            run.add_text(name, "\n".join(f"| {' | '.join(row)} |" for row in cells), step)
        elif isinstance(logger, MLFlowLogger):
            data = {column: [row[k] for row in rows] for k, column in enumerate(columns)}
            run.log_table(logger.run_id, data, f"{name}-{step}.json")


def _image(picture: Picture) -> Image.Image:
    if isinstance(picture, Figure):
        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return (Image.open(picture) if isinstance(picture, Path) else picture).convert("RGB")


def _cell(value: Any) -> str:
    """Write a cell so that it is shown as it is: names come from data."""
    return html.escape(str(value)).replace("|", "&#124;").replace("\n", " ")
