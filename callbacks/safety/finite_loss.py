"""Stop at the first loss that is NaN or infinite, before it reaches the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class StopOnNonFiniteLoss(Callback):
    """Stop when the loss is NaN or infinite; the error names the step, every term and the checkpoints."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss before its gradients exist.

        Raises:
            ValueError: The loss is not finite.
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
