"""Log figures and sample images of every evaluation to W&B, TensorBoard and MLflow."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from PIL import Image, ImageOps

from callbacks.evaluation.zero_shot_evaluation import Details, ZeroShotEvaluation
from callbacks.tracking.logger_media import Samples, log_pictures, takes_pictures
from callbacks.tracking.wandb_run import metrics_step, uploads_images
from datamodules.pairs.image_reading import read_image
from datamodules.record import Record
from metrics.names import STUDENT

SAMPLE_SIZE = 256  # pixels


class EvaluationMedia(Callback):
    """Log the student's confusion matrices, growth chart and the same sample images at every evaluation.

    Must come after the evaluations, whose results it logs.

    Args:
        samples: Number of sample images per benchmark; 0 for none.
        upload_images: Whether any part of the run sends images, file names, patient identifiers, results of single
            images and console output to W&B and other loggers; null for the phantom only.
    """

    def __init__(self, samples: int = 8, upload_images: bool | None = None) -> None:
        self.samples = samples
        self.upload_images = upload_images

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not takes_pictures(trainer):
            return
        media: dict[str, Any] = {}
        for evaluation in trainer.callbacks:  # type: ignore[attr-defined]
            if not isinstance(evaluation, ZeroShotEvaluation) or not evaluation.benchmarks:
                continue
            for benchmark, details in evaluation.validation[STUDENT].items():
                if evaluation.figures:
                    title = f"student, {benchmark}, epoch {trainer.current_epoch + 1}"
                    media[f"evaluation/{benchmark}"] = evaluation.draw(details, title)
                if uploads_images(trainer) and self.samples:
                    data: Any = trainer.datamodule  # type: ignore[attr-defined]
                    records = data.evaluation_records(benchmark, evaluation.selection_split)
                    media[f"evaluation/{benchmark}-samples"] = self.pictures(details, records)
        log_pictures(trainer, media, metrics_step(trainer))

    def pictures(self, details: Details, records: list[Record]) -> Samples:
        """Return evenly spaced samples of an evaluation with their captions."""
        rows, record_of = details["samples"], {record.name: record for record in records}
        count = min(self.samples, len(rows))
        pictures = []
        for row in (rows[k * len(rows) // count] for k in range(count)):
            caption = f"{row['name']}: {row['target']}, predicted {row['prediction']}"
            pictures.append((_thumbnail(record_of[row["name"]]), caption))
        return pictures


def _thumbnail(record: Record) -> Image.Image:
    """Return the image at one size for all: W&B's panel distorts lists of different sizes."""
    return ImageOps.pad(Image.fromarray(read_image(record.image)), (SAMPLE_SIZE, SAMPLE_SIZE))
