"""Stop on Ctrl-C and SIGTERM with a checkpoint to resume from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.safety.checkpoints import (
    gradients_pending,
    last_checkpoint,
    save_atomically,
    starts_evaluation,
)
from callbacks.tracking.wandb_run import mark_preempting


class SaveOnInterrupt(Checkpoint):
    """Save ``checkpoints/last.ckpt`` when a run is interrupted, and print the command that resumes it.

    In a training step, Ctrl-C and SIGTERM are deferred to the end of the optimiser step: before that, weights and
    moments may be half updated, and accumulated gradients would be lost. All processes of a run stop at the same step.
    A second Ctrl-C stops at once and leaves ``last.ckpt`` as it is.

    In an evaluation they stop at once: `LastCheckpoint` has saved the state before the evaluation.

    W&B is told of a SIGTERM at once. Must be the last callback, so that all others see the last batch.

    Args:
        resume: Returns the command that resumes, given the path of the checkpoint.
    """

    def __init__(
        self, resume: Callable[[Path], str] = 'the same command and ARGS="--ckpt_path={}"'.format
    ) -> None:
        self._resume = resume
        self._signal = 0
        self._must_save = False
        self._evaluating = False
        self._trainer: Trainer | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers for the training; Lightning restores the previous ones at its end.

        Raises:
            SIGTERMException: SIGTERM came while the training was prepared.
        """
        if trainer.received_sigterm:
            raise SIGTERMException
        self._install(trainer, evaluating=False)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers for the test."""
        self._install(trainer, evaluating=True)

    def _install(self, trainer: Trainer, evaluating: bool) -> None:
        self._signal, self._must_save, self._evaluating, self._trainer = 0, False, evaluating, trainer
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and (self._signal or self._evaluating):
            raise KeyboardInterrupt
        self._signal = self._signal or signum
        if signum == signal.SIGINT:
            print("\nstopping after this step (Ctrl-C again stops at once) ...", flush=True)
        elif self._trainer is not None:
            mark_preempting(self._trainer)
            if self._evaluating:
                launcher = self._trainer.strategy.launcher
                if launcher is not None:
                    launcher.kill(signum)  # forwards the signal to the other processes
                raise SIGTERMException

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop here if a signal came in the last step; from here on stop at once."""
        if starts_evaluation(trainer, batch_idx, dataloader_idx):
            if self._is_asked_to_stop(trainer):
                self._stop(save=gradients_pending(trainer))
            self._evaluating = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Defer signals again: checkpoints are about to be written."""
        self._evaluating = False

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Stop here if a signal came in this step."""
        if gradients_pending(trainer) or trainer.fit_loop.epoch_loop._is_training_done:
            return
        if self._is_asked_to_stop(trainer):
            if self._signal == signal.SIGINT:
                self._stop(save=True)
            self._must_save = True
            trainer._signal_connector.received_sigterm = True  # Lightning raises once this batch is logged

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here if a signal came in the last step of an epoch without evaluation, or after the evaluation."""
        if self._is_asked_to_stop(trainer):
            self._stop(save=True)

    def _is_asked_to_stop(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._signal != 0, all=False)

    def _stop(self, save: bool) -> None:
        self._must_save = save
        raise KeyboardInterrupt if self._signal == signal.SIGINT else SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the interrupted run, and print how to resume it."""
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException):
            return
        path = last_checkpoint(trainer)
        if self._must_save:
            save_atomically(trainer, path)
        if path.is_file() and trainer.is_global_zero:
            where = f" at step {trainer.global_step}" if self._must_save else ""
            print(f"\ninterrupted{where}; resume with: {self._resume(path)}", flush=True)
