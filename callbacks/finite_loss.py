"""Stop at the first loss that is not a number, before it reaches the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class StopOnNonFiniteLoss(Callback):
    """End the run when the loss is NaN or infinite, with the step, every term and the kept checkpoint."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss before its gradients exist.

        Raises:
            ValueError: The loss is not finite.
        """
        if torch.isfinite(loss):
            return
        terms: dict[str, Any] = getattr(pl_module, "terms", {})
        listed = ", ".join(f"{name}={float(value.detach()):.4g}" for name, value in terms.items())
        folder = Path(trainer.default_root_dir) / "checkpoints"
        kept = sorted(str(path) for path in folder.glob("*.ckpt"))
        raise ValueError(
            f"the loss is not finite at step {trainer.global_step} ({listed}); "
            f"kept checkpoints: {', '.join(kept) or 'none yet'}; "
            "lower --model.learning_rate or the off-diagonal weight, or train with --trainer.precision=bf16-mixed"
        )
