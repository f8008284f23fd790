"""How hard each part of the student is pulled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from metrics.names import gradient_norm_name


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor | None:
    """Return the L2 norm of all gradients together, a scalar; None when there are none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else None


class GradientNorms(Callback):
    """Log the gradient norm of the image tower, the text tower and everything, before clipping.

    Lightning unscales the gradients of mixed precision before this hook and clips them after it.
    """

    def on_before_optimizer_step(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        optimizer: Optimizer,  # noqa: ARG002
    ) -> None:
        """Log at the steps that are logged; in between the norms would be computed for nothing."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        student: Any = pl_module.student
        image = list(student.image_parameters())
        not_text = {id(parameter) for parameter in (*image, student.log_logit_scale)}
        text = [parameter for parameter in student.parameters() if id(parameter) not in not_text]
        parts = {"image": image, "text": text, "all": list(pl_module.parameters())}
        for part, parameters in parts.items():
            norm = gradient_norm(parameters)
            if norm is not None:
                pl_module.log(gradient_norm_name(part), norm, batch_size=1)
