"""Exponential moving average of the student's weights."""

from __future__ import annotations

from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

PREFIX = "student."
TRAINED = "trained_student"


class EMAWeightAveraging(Callback):
    """Keep an exponential moving average of the student's weights, which is evaluated, selected and saved.

    After the first optimiser step the average is the student itself, after every other one
    ``decay * average + (1 - decay) * student``, for parameters and the statistics of batch norms alike. A checkpoint
    has the average in ``state_dict``, and the weights that training continues from in ``trained_student``.

    Lightning's own callback of this name is refused here: it also copies the teacher, validates the average or the
    student depending on the order of callbacks, and after training tests the weights that are not averaged.

    Args:
        decay: In [0, 1); the average spans about ``1 / (1 - decay)`` steps.

    Raises:
        ValueError: A decay outside that range.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMAWeightAveraging: decay must be at least 0 and below 1, not {decay}")
        self._update: Any = get_ema_multi_avg_fn(decay)
        self._average: dict[str, Tensor] | None = None
        self._swapped = False
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._average, self._swapped = None, False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Continue a resumed training from the weights that are not averaged."""
        if trainer.state.fn != TrainerFn.FITTING or TRAINED not in checkpoint:
            return
        state = checkpoint["state_dict"]
        self._average = {name: state[PREFIX + name].clone() for name in checkpoint[TRAINED]}
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
            self._average = {name: value.clone() for name, value in student.items()}
        for name, value in student.items():
            if not value.is_floating_point():  # the number of batches that a batch norm has seen
                self._average[name].copy_(value)
        numbers = [name for name, value in student.items() if value.is_floating_point()]
        self._update([self._average[name] for name in numbers], [student[name] for name in numbers], None)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._swap(trainer, pl_module, True)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._swap(trainer, pl_module, False)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._swap(trainer, pl_module, True)

    def _swap(self, trainer: Trainer, pl_module: Any, swapped: bool) -> None:
        """During training, exchange the student's weights and the average, unless `swapped` says the current state."""
        if self._average is None or self._swapped == swapped or trainer.state.fn != TrainerFn.FITTING:
            return
        self._swapped = swapped
        for name, value in pl_module.student.state_dict().items():
            kept = value.clone()
            value.copy_(self._average[name])
            self._average[name] = kept

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self._average is None:
            return
        live = pl_module.student.state_dict()
        average, trained = (live, self._average) if self._swapped else (self._average, live)
        checkpoint["state_dict"].update({PREFIX + name: value for name, value in average.items()})
        checkpoint[TRAINED] = dict(trained)
