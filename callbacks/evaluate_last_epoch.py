"""The weights at the end of a training are always evaluated."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer


class EvaluateLastEpoch(Callback):
    """Evaluate after the last epoch, whether or not ``check_val_every_n_epoch`` divides the number of epochs.

    A training that ``max_steps`` ends within an epoch is evaluated there.
    Otherwise the final weights, which the schedule was made for, could never be selected.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for it also when a run goes on within its last epoch, of which it sees no start."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for an evaluation at the end of this epoch when it is the last."""
        if trainer.check_val_every_n_epoch and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Ask for an evaluation right behind the last of ``max_steps``; Lightning makes one when it is told to stop."""
        if 0 <= trainer.max_steps <= trainer.global_step:
            trainer.check_val_every_n_epoch = trainer.check_val_every_n_epoch and 1
            trainer.should_stop = True
