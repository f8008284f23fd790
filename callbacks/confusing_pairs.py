"""The image pairs that the teacher confuses most, and what the student makes of them."""

from __future__ import annotations

from typing import Any

import torch
import wandb
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.probe import Probe
from callbacks.wandb_run import STEP_AXIS, active_run, metrics_step, uploads_images
from metrics.names import CONFUSING_PAIRS

COLUMNS = (
    "image", "plane", "confused_with", "confused_plane",
    "teacher_true", "teacher_confused", "student_true", "student_confused",
)  # fmt: skip


def most_confused(probabilities: Tensor, excluded: Tensor, count: int) -> list[tuple[int, int]]:
    """Return the mismatched pairs of highest probability, each image once.

    Args:
        probabilities: [B, B], row i the probabilities of all texts for image i.
        excluded: Boolean [B, B], pairs that are no confusion, such as equal captions.
        count: Number of pairs at most.

    Returns:
        (image, text) rows and columns, the most probable first.
    """
    masked = probabilities.clone()
    masked.fill_diagonal_(-1.0)
    masked[excluded] = -1.0
    strongest, column = masked.max(dim=1)
    order = torch.argsort(strongest, descending=True, stable=True)[:count]
    return [(int(row), int(column[row])) for row in order if strongest[row] >= 0]


class ConfusingPairs(Callback):
    """Find the pairs that the teacher confuses most, with both models' probabilities, and log them as a table.

    Probabilities are each model's own softmax over the texts of a fixed batch of validation pairs. The rows
    are chosen by the teacher and so stay the same, which lets W&B step through training.

    Args:
        probe: The batch, shared with other callbacks.
        count: Number of pairs.

    Attributes:
        results: ``{"confusing_pairs": {"rows": [row, ...]}}`` of the last evaluation, without images.
    """

    def __init__(self, probe: Probe, count: int = 12) -> None:
        self.probe = probe
        self.count = count
        self.results: dict[str, Any] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fill the table."""
        if trainer.sanity_checking or not self.probe.ready:
            return
        pairs = most_confused(
            self._probabilities(self.probe.teacher_logits), self.probe.same_caption(), self.count
        )
        rows = self.rows(pairs, self.probe.student_logits(pl_module))
        named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        self.results = {"confusing_pairs": {"rows": named}}
        run = active_run(trainer)
        if run is not None and uploads_images(trainer):
            pictures = [[self._picture(i), self._picture(j)] for i, j in pairs]
            data = [[*shown, *row] for shown, row in zip(pictures, rows, strict=True)]
            table = wandb.Table(columns=["picture", "confused_picture", *COLUMNS], data=data)
            run.log({CONFUSING_PAIRS: table, STEP_AXIS: metrics_step(trainer)})

    def rows(self, pairs: list[tuple[int, int]], student_logits: Tensor) -> list[list[Any]]:
        """Return the table's rows, in the order of `COLUMNS`."""
        teacher, student = self._probabilities(self.probe.teacher_logits), self._probabilities(student_logits)
        batch = self.probe.batch
        unknown = [""] * len(teacher)
        names, planes = batch.get("name", unknown), batch.get("plane", unknown)
        return [
            [names[i], planes[i], names[j], planes[j]]
            + [round(float(p[i, k]), 6) for p in (teacher, student) for k in (i, j)]
            for i, j in pairs
        ]

    @staticmethod
    def _probabilities(logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def _picture(self, index: int) -> Any:
        image = self.probe.batch["student_image"][index].float()
        low, high = image.amin(), image.amax()
        scaled = ((image - low) / (high - low).clamp_min(1e-6) * 255).round().to(torch.uint8)
        return wandb.Image(scaled.permute(1, 2, 0).cpu().numpy(), file_type="jpg")
