"""Metrics of training steps: gradient norms per tower, images per second, share of time spent waiting for data."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from metrics.names import DATA_WAIT_SHARE, IMAGES_PER_SECOND
from models.cost import used_parameters
from models.encoders.dual_encoder import in_eval_mode


def towers(student: Any) -> dict[str, list[nn.Parameter]]:
    """Return the trainable parameters that a dual encoder's ``image`` and ``text`` embedding of a test input depend on.

    This works for any architecture; the logit scale is in neither. The student's modes and gradients do not change.
    """
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    like, inputs = next(student.parameters()), student.preprocessing
    image = torch.ones(1, 3, inputs.image_size, inputs.image_size, device=like.device, dtype=like.dtype)
    tokens = torch.ones(1, inputs.context_length, device=like.device, dtype=torch.int64)
    found = {}
    with in_eval_mode(student), torch.enable_grad():  # without batch statistics and dropout
        for tower, value in (("image", image), ("text", tokens)):
            found[tower] = used_parameters(getattr(student, f"encode_{tower}")(value), parameters)
    return found


def on_device(value: float, module: LightningModule) -> Tensor:
    """Return a number as a tensor to log at every step: Lightning would copy a number to a GPU and wait for it."""
    return torch.full((), float(value), device=module.device)


class GradientNorms(Callback):
    """Log the L2 norm of the gradients of the image tower, the text tower and all parameters, before clipping."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
                pl_module.log(f"gradient_norm/{part}", norm, batch_size=1)


class Throughput(Callback):
    """Log images per second over all processes, and the share of time spent waiting for batches.

    Both are means over the last `window` batches, without the evaluations between them. Lightning's
    ThroughputMonitor does not measure the wait.
    """

    def __init__(self, window: int = 20) -> None:
        self._batches: deque[tuple[int, float, float]] = deque(maxlen=window)  # images, waited s, total s

    def _restart(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._left = perf_counter()

    on_train_start = on_train_epoch_start = on_validation_end = _restart

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        self._arrived = perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = perf_counter()
        self._batches.append((len(batch["student_image"]), self._arrived - self._left, now - self._left))
        self._left = now
        images, waited, total = (sum(column) for column in zip(*self._batches, strict=True))
        speed = images * trainer.world_size / total
        pl_module.log(IMAGES_PER_SECOND, on_device(speed, pl_module), batch_size=1)
        pl_module.log(DATA_WAIT_SHARE, on_device(waited / total, pl_module), batch_size=1)
