"""Safety of every training step: random state that resumes exactly, and a stop at a loss that is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class StepSeed(Callback):
    """Seed torch before every training batch from (seed, epoch, batch number, rank).

    Dropout and stochastic depth then draw the same numbers in a resumed run as in an uninterrupted one, without
    generator state in the checkpoint.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of this process."""
        sequence = np.random.SeedSequence([self.seed, trainer.current_epoch, batch_idx, trainer.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint32)[0]))


class StopOnNonFiniteLoss(Callback):
    """Stop when the loss is NaN or infinite, before it reaches the weights."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss before its gradients exist.

        Raises:
            ValueError: It is not finite; the message names the step, every term and the checkpoints.
        """
        if torch.isfinite(loss):
            return
        terms: dict[str, Any] = getattr(pl_module, "terms", {})
        listed = ", ".join(f"{name}={float(value.detach()):.4g}" for name, value in terms.items())
        kept = sorted(map(str, Path(trainer.default_root_dir, "checkpoints").glob("[!.]*.ckpt")))
        raise ValueError(
            f"the loss is not finite at step {trainer.global_step} ({listed}); "
            f"kept checkpoints: {', '.join(kept) or 'none yet'}; "
            "lower --model.learning_rate or the off-diagonal weight, or train with --trainer.precision=bf16-mixed"
        )
