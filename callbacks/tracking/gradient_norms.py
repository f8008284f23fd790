"""Log gradient norms per tower."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from metrics.names import gradient_norm_name


def towers(student: Any) -> dict[str, list[nn.Parameter]]:
    """Return the trainable parameters of a dual encoder's image and text tower, for any architecture.

    A parameter belongs to a tower if the tower's embedding of a test input depends on it.

    Args:
        student: A `models.DualEncoder`; its mode and its gradients do not change.

    Returns:
        ``image`` and ``text``; the logit scale is in neither.
    """
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    like = next(student.parameters())
    size, length = student.preprocessing.image_size, student.preprocessing.context_length
    inputs = {
        "image": torch.ones(1, 3, size, size, device=like.device, dtype=like.dtype),
        "text": torch.ones(1, length, device=like.device, dtype=torch.int64),
    }
    training = student.training
    student.eval()  # excludes batch statistics and dropout
    found = {}
    with torch.enable_grad():
        for tower, value in inputs.items():
            embedding = getattr(student, f"encode_{tower}")(value)
            gradients: tuple[Tensor | None, ...] = (None,) * len(parameters)
            if embedding.requires_grad:
                gradients = torch.autograd.grad(embedding.sum(), parameters, allow_unused=True)
            found[tower] = [p for p, g in zip(parameters, gradients, strict=True) if g is not None]
    student.train(training)
    return found


class GradientNorms(Callback):
    """Log the L2 norm of the gradients of the image tower, the text tower and all parameters, before clipping.

    Lightning unscales the gradients of mixed precision before this hook and clips them after it.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[nn.Parameter]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the towers."""
        self._parts = {**towers(pl_module.student), "all": list(pl_module.parameters())}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Log at the steps that are logged; 0 means never."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every == 0 or (trainer.global_step + 1) % every:
            return
        for part, parameters in self._parts.items():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            if gradients:
                norm = torch.nn.utils.get_total_norm(gradients)
                pl_module.log(gradient_norm_name(part), norm, batch_size=1)
