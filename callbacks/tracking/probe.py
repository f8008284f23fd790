"""Probe batch: a fixed batch of validation pairs on which student and teacher are compared during training."""

from __future__ import annotations

from typing import Any

import torch
import wandb
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from callbacks.tracking.logger_media import log_table
from callbacks.tracking.wandb_run import STEP_AXIS, active_run, metrics_step, uploads_images
from metrics.geometry import logit_correlation
from metrics.names import CONFUSING_PAIRS, DIAGONAL_CORRELATION, OFF_DIAGONAL_CORRELATION
from models.evaluation_mode import evaluation_mode

COLUMNS = (
    "image", "plane", "confused_with", "confused_plane",
    "teacher_true", "teacher_confused", "student_true", "student_confused",
)  # fmt: skip


class ProbeBatch(Callback):
    """Compare both models' logits on the first validation pairs; does nothing without a teacher.

    Logs the correlation of the logits on the matched and on the mismatched pairs, at the start of training and at
    every evaluation, and at every evaluation a table of the pairs that the teacher confuses most, with both models'
    probabilities: softmax over the texts of the batch. Pairs of equal captions are no confusion, and are left out.
    Validation pairs are neither shuffled nor augmented, so a resumed run has the same batch.

    Args:
        size: Largest number of pairs; all are of one batch.
        count: Rows of the table.

    Attributes:
        batch: The pairs: tensors [B, ...] and lists of length B; empty until training starts.
        teacher_logits: The teacher's logits [B, B], rows images and columns texts, float32 on the CPU.
        results: The table of the last evaluation, without images.
    """

    def __init__(self, size: int = 128, count: int = 12) -> None:
        self.size = size
        self.count = count
        self.batch: dict[str, Any] = {}
        self.teacher_logits = torch.empty(0, 0)
        self.results: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fetch the batch and embed it with the teacher."""
        if self.batch or pl_module.teacher is None or not trainer.is_global_zero:
            return
        with isolate_rng():  # iterating a loader draws from the generator that training draws from
            batch = next(iter(trainer.datamodule.val_dataloader()), None)  # type: ignore[attr-defined]
        if not batch:  # no validation images
            return
        self.batch = {name: values[: self.size] for name, values in batch.items()}
        self.teacher_logits = self._logits(pl_module, "teacher")
        for logger in trainer.loggers:
            logger.log_metrics(self.correlations(self.student_logits(pl_module)), step=trainer.global_step)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not self.batch:
            return
        student_logits = self.student_logits(pl_module)
        pl_module.log_dict(self.correlations(student_logits), batch_size=1, rank_zero_only=True)
        pairs = most_confused(self.teacher_logits.softmax(dim=1), self.same_caption(), self.count)
        rows = self.rows(pairs, student_logits)
        named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        self.results = {"confusing_pairs": {"rows": named}}
        if not uploads_images(trainer):
            return
        run, step = active_run(trainer), metrics_step(trainer)
        log_table(trainer, CONFUSING_PAIRS, COLUMNS, rows, step)
        if run is not None:
            pictures = [[self._picture(i), self._picture(j)] for i, j in pairs]
            data = [[*shown, *row] for shown, row in zip(pictures, rows, strict=True)]
            table = wandb.Table(columns=["picture", "confused_picture", *COLUMNS], data=data)
            run.log({CONFUSING_PAIRS: table, STEP_AXIS: step})

    def student_logits(self, pl_module: LightningModule) -> Tensor:
        """Return the student's logits [B, B], float32 on the CPU; its modules keep their modes."""
        return self._logits(pl_module, "student")

    def same_caption(self) -> Tensor:
        """Return a boolean [B, B], True off the diagonal where two captions are equal."""
        caption = self.batch.get("caption_id")
        if caption is None:
            return torch.zeros_like(self.teacher_logits, dtype=torch.bool)
        equal: Tensor = caption[:, None] == caption[None, :]
        return equal.fill_diagonal_(False)

    def correlations(self, student_logits: Tensor) -> dict[str, float]:
        """Return the logit correlations by logged name."""
        values = logit_correlation(student_logits, self.teacher_logits, self.same_caption())
        return dict(zip((DIAGONAL_CORRELATION, OFF_DIAGONAL_CORRELATION), values, strict=True))

    def rows(self, pairs: list[tuple[int, int]], student_logits: Tensor) -> list[list[Any]]:
        """Return the table's rows, in the order of `COLUMNS`."""
        teacher, student = self.teacher_logits.softmax(dim=1), student_logits.softmax(dim=1)
        unknown = [""] * len(teacher)
        names, planes = self.batch.get("name", unknown), self.batch.get("plane", unknown)
        return [
            [names[i], planes[i], names[j], planes[j]]
            + [round(float(p[i, k]), 6) for p in (teacher, student) for k in (i, j)]
            for i, j in pairs
        ]

    def _logits(self, pl_module: LightningModule, role: str) -> Tensor:
        with evaluation_mode(getattr(pl_module, role)) as model:
            image = model.encode_image(self.batch[f"{role}_image"].to(pl_module.device))
            text = model.encode_text(self.batch[f"{role}_tokens"].to(pl_module.device))
            logits: Tensor = model.logit_scale * image @ text.T
            return logits.cpu()

    def _picture(self, index: int) -> Any:
        image = self.batch["student_image"][index].float()
        low, high = image.amin(), image.amax()
        scaled = ((image - low) / (high - low).clamp_min(1e-6) * 255).round().to(torch.uint8)
        return wandb.Image(scaled.permute(1, 2, 0).cpu().numpy(), file_type="jpg")


def most_confused(probabilities: Tensor, excluded: Tensor, count: int) -> list[tuple[int, int]]:
    """Return (image, text) of the `count` mismatched pairs of highest probability [B, B], each image once.

    Pairs of `excluded` (bool [B, B]), such as equal captions, are left out.
    """
    masked = probabilities.clone()
    masked.fill_diagonal_(-1.0)
    masked[excluded] = -1.0
    strongest, column = masked.max(dim=1)
    order = torch.argsort(strongest, descending=True, stable=True)[:count]
    return [(int(row), int(column[row])) for row in order if strongest[row] >= 0]
