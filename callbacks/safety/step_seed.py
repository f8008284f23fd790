"""Seed every training step from the run's seed and the step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class StepSeed(Callback):
    """Seed torch before every training batch from (seed, epoch, batch number, rank).

    Dropout and stochastic depth then draw the same numbers in a resumed run as in an uninterrupted one, without
    generator state in the checkpoint.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Seed the generators of this process."""
        sequence = np.random.SeedSequence([self.seed, trainer.current_epoch, batch_idx, trainer.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint32)[0]))
