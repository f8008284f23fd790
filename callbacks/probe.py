"""A fixed batch of validation pairs on which student and teacher are compared during training."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor


class Probe:
    """The first validation pairs and what the teacher makes of them.

    Validation pairs are neither shuffled nor augmented, so that a resumed run has the same probe. Several
    callbacks share one.

    Args:
        size: Number of pairs B at most; one batch of the validation loader is the other limit.

    Attributes:
        batch: The pairs: tensors [B, ...] and lists of length B.
        teacher_logits: The teacher's logits [B, B], rows images and columns texts, float32 on the CPU.
    """

    def __init__(self, size: int = 128) -> None:
        self.size = size
        self.batch: dict[str, Any] = {}
        self.teacher_logits = torch.empty(0, 0)

    @property
    def ready(self) -> bool:
        """Whether there is something to compare."""
        return bool(self.batch)

    def prepare(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fetch the batch and embed it with the teacher, once.

        Without a teacher or without validation pairs there is no probe.
        """
        if self.ready or pl_module.teacher is None or not trainer.is_global_zero:
            return
        with isolate_rng():  # iterating a loader draws from the generator that training draws from
            batch = next(iter(trainer.datamodule.val_dataloader()), None)  # type: ignore[attr-defined]
        if batch is None:
            return
        self.batch = {name: values[: self.size] for name, values in batch.items()}
        self.teacher_logits = self._logits(pl_module, "teacher")

    def student_logits(self, pl_module: LightningModule) -> Tensor:
        """Return the student's logits [B, B], float32 on the CPU; its training mode is left as it was."""
        student: Any = pl_module.student
        training = student.training
        student.eval()
        try:
            return self._logits(pl_module, "student")
        finally:
            student.train(training)

    def same_caption(self) -> Tensor:
        """Return a boolean [B, B], True off the diagonal where two captions are equal."""
        caption = self.batch.get("caption_id")
        if caption is None:
            return torch.zeros_like(self.teacher_logits, dtype=torch.bool)
        equal = caption[:, None] == caption[None, :]
        off_diagonal = ~torch.eye(len(caption), dtype=torch.bool)
        return torch.logical_and(equal, off_diagonal)

    @torch.no_grad()
    def _logits(self, pl_module: LightningModule, role: str) -> Tensor:
        model: Any = getattr(pl_module, role)
        image = model.encode_image(self.batch[f"{role}_image"].to(pl_module.device))
        text = model.encode_text(self.batch[f"{role}_tokens"].to(pl_module.device))
        logits: Tensor = model.logit_scale * image @ text.T
        return logits.float().cpu()
