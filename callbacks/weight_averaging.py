"""Exponential moving average of the student's weights."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

PREFIX = "student."
TRAINED = "trained_student"
EXACT = "average_student"


class EMAWeightAveraging(Callback):
    """Keep an exponential moving average of the student's weights, which is evaluated, selected and saved.

    After the first optimiser step the average is the student itself, after every other one
    ``decay * average + (1 - decay) * student``, for parameters and the statistics of batch norms alike. A checkpoint
    has the average in ``state_dict``, and the weights that training continues from in ``trained_student``. In true half
    precision, which would round the small updates to nothing, the average is kept in float32: ``average_student``.

    Lightning's own callback of this name is refused here: it also copies the teacher, validates the average or the
    student depending on the order of callbacks, and after training tests the weights that are not averaged.

    Args:
        decay: In [0, 1); the average spans about ``1 / (1 - decay)`` steps.

    Raises:
        ValueError: A decay outside that range; checkpoints of weights only, which would lack the average; or a resumed
            training began without it.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMAWeightAveraging: decay must be at least 0 and below 1, not {decay}")
        self._update: Any = get_ema_multi_avg_fn(decay)
        self._average: dict[str, Tensor] | None = None
        self._trained: dict[str, Tensor] | None = None  # while the average is in the student's place
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        if any(getattr(one, "save_weights_only", False) for one in trainer.checkpoint_callbacks):
            raise ValueError(
                "EMAWeightAveraging: checkpoint.save_weights_only would leave the average out of best.ckpt; remove it"
            )
        self._average = self._trained = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Continue a resumed training from the weights that are not averaged."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if TRAINED not in checkpoint:
            if checkpoint["global_step"]:
                raise ValueError(
                    "EMAWeightAveraging: the training to resume began without it; remove it, or start a new run"
                )
            return
        state = checkpoint["state_dict"]
        average = checkpoint.get(EXACT) or {name: state[PREFIX + name] for name in checkpoint[TRAINED]}
        self._average = {name: _copy(value) for name, value in average.items()}
        pl_module.student.load_state_dict(checkpoint[TRAINED])

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step
        if self._average is not None:
            self._average = {name: value.to(pl_module.device) for name, value in self._average.items()}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self._step:  # within an accumulation
            return
        self._step = trainer.global_step
        student = pl_module.student.state_dict()
        if self._average is None:
            self._average = {name: _copy(value) for name, value in student.items()}
        for name, value in student.items():
            if not value.is_floating_point():  # the number of batches that a batch norm has seen
                self._average[name].copy_(value)
        numbers = [name for name, value in student.items() if value.is_floating_point()]
        average = [self._average[name] for name in numbers]
        self._update(average, [student[name].to(self._average[name].dtype) for name in numbers], None)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._swap(trainer, pl_module, True)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._swap(trainer, pl_module, False)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._swap(trainer, pl_module, True)

    def _swap(self, trainer: Trainer, pl_module: Any, swapped: bool) -> None:
        """During training, put the average in the place of the student's weights, or these back."""
        swaps = swapped != (self._trained is not None)
        if self._average is None or not swaps or trainer.state.fn != TrainerFn.FITTING:
            return
        student = pl_module.student.state_dict()
        source = self._trained or self._average
        self._trained = {name: value.clone() for name, value in student.items()} if swapped else None
        for name, value in student.items():
            value.copy_(source[name])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self._average is None:
            return
        live = pl_module.student.state_dict()
        average = {name: value.to(live[name].dtype) for name, value in self._average.items()}
        checkpoint["state_dict"].update({PREFIX + name: value for name, value in average.items()})
        checkpoint[TRAINED] = dict(self._trained or live)
        if any(value.dtype != average[name].dtype for name, value in self._average.items()):
            checkpoint[EXACT] = self._average


def _copy(value: Tensor) -> Tensor:
    """Copy a tensor; a floating-point one in at least float32."""
    dtype = torch.promote_types(value.dtype, torch.float32) if value.is_floating_point() else value.dtype
    return value.to(dtype, copy=True)
