"""Stop cleanly on Ctrl-C and SIGTERM, keeping a checkpoint to resume from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.last_checkpoint import (
    gradients_pending,
    is_start_of_evaluation,
    last_checkpoint,
    save_last,
)
from callbacks.wandb_run import mark_preempting


def _only_the_checkpoint(path: Path) -> str:
    return f'the same command and ARGS="--ckpt_path={path}"'


class SaveOnInterrupt(Checkpoint):
    """Save ``checkpoints/last.ckpt`` when a run is interrupted, and say how to resume it.

    In a training step Ctrl-C and SIGTERM are deferred to the end of the optimiser step: before it weights and moments
    may be half updated, and gradients that were accumulated so far would be lost. All processes of a run stop at
    the same step. A second Ctrl-C stops at once, and leaves ``last.ckpt`` as it is.

    In an evaluation they stop at once: `LastCheckpoint` has saved the state that the evaluation began with.

    W&B hears of a SIGTERM as soon as it comes. This callback stands last, so that no other one misses the last batch.

    Args:
        resume: Makes the command that resumes, from the path of the checkpoint.
    """

    def __init__(self, resume: Callable[[Path], str] = _only_the_checkpoint) -> None:
        self._resume = resume
        self._signal = 0
        self._stopped = False
        self._evaluating = False
        self._trainer: Trainer | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over both signals for the time of the training; Lightning gives them back at its end.

        Raises:
            SIGTERMException: SIGTERM came while the training was prepared.
        """
        if trainer.received_sigterm:
            raise SIGTERMException
        self._take_over(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over both signals for the time of the test."""
        self._take_over(trainer)
        self._evaluating = True

    def _take_over(self, trainer: Trainer) -> None:
        self._signal, self._stopped, self._evaluating, self._trainer = 0, False, False, trainer
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._request_stop)
            signal.signal(signal.SIGTERM, self._request_stop)

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
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
                    launcher.kill(signum)  # hands it on to the other processes
                raise SIGTERMException

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop here when it was asked for during the last step, else stop at once from here on."""
        if is_start_of_evaluation(trainer, batch_idx, dataloader_idx):
            self._stop_if_asked(trainer, saved=not gradients_pending(trainer))
            self._evaluating = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Defer again: checkpoints are about to be written."""
        self._evaluating = False

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Stop here when it was asked for during the step."""
        if gradients_pending(trainer) or trainer.fit_loop.epoch_loop._is_training_done:
            return
        if not self._is_asked_to_stop(trainer):
            return
        self._stopped = True
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        # Lightning raises it as soon as this batch is logged.
        trainer._signal_connector.received_sigterm = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here when it was asked for during the last step of an epoch without evaluation, or behind one."""
        self._stop_if_asked(trainer, saved=False)

    def _stop_if_asked(self, trainer: Trainer, saved: bool) -> None:
        if self._is_asked_to_stop(trainer):
            self._stopped = not saved
            raise KeyboardInterrupt if self._signal == signal.SIGINT else SIGTERMException

    def _is_asked_to_stop(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._signal != 0, all=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the interrupted run."""
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException):
            return
        if self._stopped:
            save_last(trainer)
        path = last_checkpoint(trainer)
        if path.is_file():
            where = f" at step {trainer.global_step}" if self._stopped else ""
            _say(f"interrupted{where}; resume with: {self._resume(path)}")


@rank_zero_only
def _say(message: str) -> None:
    print(f"\n{message}", flush=True)
