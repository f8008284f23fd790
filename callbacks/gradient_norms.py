"""How hard each tower of the student is pulled."""

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


def towers(student: Any) -> dict[str, list[nn.Parameter]]:
    """Sort a dual encoder's trainable parameters into its towers.

    A parameter belongs to a tower when that tower's embedding of a test input depends on it, so any
    architecture will do, whatever its parts are called.

    Args:
        student: A `models.DualEncoder`; its mode is left as it was, its gradients are not touched.

    Returns:
        ``image`` and ``text``; the logit scale is in neither.
    """
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    like = next(student.parameters())
    contract = student.preprocessing
    image = torch.ones(1, 3, contract.image_size, contract.image_size, device=like.device, dtype=like.dtype)
    tokens = torch.ones(1, contract.context_length, device=like.device, dtype=torch.int64)
    training = student.training
    student.eval()  # batch statistics and dropout stay out of it
    with torch.enable_grad():
        embeddings = {"image": student.encode_image(image), "text": student.encode_text(tokens)}
        found = {}
        for tower, embedding in embeddings.items():
            gradients: tuple[Tensor | None, ...] = (None,) * len(parameters)
            if embedding.requires_grad:
                gradients = torch.autograd.grad(embedding.sum(), parameters, allow_unused=True)
            found[tower] = [p for p, g in zip(parameters, gradients, strict=True) if g is not None]
    student.train(training)
    return found


class GradientNorms(Callback):
    """Log the gradient norm of the image tower, the text tower and everything, before clipping.

    Lightning unscales the gradients of mixed precision before this hook and clips them after it.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[nn.Parameter]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the towers."""
        self._parts = {**towers(pl_module.student), "all": list(pl_module.parameters())}

    def on_before_optimizer_step(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        optimizer: Optimizer,
    ) -> None:
        """Log at the steps that are logged; in between the norms would be computed for nothing."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every == 0 or (trainer.global_step + 1) % every:  # 0 is Lightning's word for never
            return
        for part, parameters in self._parts.items():
            norm = gradient_norm(parameters)
            if norm is not None:
                pl_module.log(gradient_norm_name(part), norm, batch_size=1)
