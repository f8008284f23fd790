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

from callbacks.last_checkpoint import gradients_pending, last_checkpoint, save_last
from callbacks.wandb_run import mark_preempting


def _only_the_checkpoint(path: Path) -> str:
    return f'the same command and ARGS="--ckpt_path={path}"'


class SaveOnInterrupt(Checkpoint):
    """Save ``checkpoints/last.ckpt`` when a run is interrupted, and say how to resume it.

    Ctrl-C and SIGTERM are deferred to the end of the running optimiser step: before it weights and moments
    may be half updated, and gradients that were accumulated so far would be lost. In the last step of an
    epoch they are deferred to its end, so that its evaluation is not left out. A second Ctrl-C stops at
    once, and leaves ``last.ckpt`` as it is. All processes of a run stop at the same step.

    W&B hears of a SIGTERM as soon as it comes: the time that is left may not last to the end of an evaluation.

    This callback stands last, so that no other one misses the last batch.

    Args:
        resume: Makes the command that resumes, from the path of the checkpoint.
    """

    def __init__(self, resume: Callable[[Path], str] = _only_the_checkpoint) -> None:
        self._resume = resume
        self._signal = 0
        self._stopped = False
        self._trainer: Trainer | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over both signals for the time of the training; Lightning gives them back at its end.

        Raises:
            SIGTERMException: SIGTERM came while the training was prepared.
        """
        if trainer.received_sigterm:
            raise SIGTERMException
        self._signal, self._stopped, self._trainer = 0, False, trainer
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._request_stop)
            signal.signal(signal.SIGTERM, self._request_stop)

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self._signal:
            raise KeyboardInterrupt
        self._signal = self._signal or signum
        if signum == signal.SIGINT:
            print("\nstopping after this step (Ctrl-C again stops at once) ...", flush=True)
        elif self._trainer is not None:
            mark_preempting(self._trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell W&B of a SIGTERM while test patients are scored; Lightning ends the run where it can."""
        before = signal.getsignal(signal.SIGTERM)

        def mark(signum: int, frame: FrameType | None) -> None:
            mark_preempting(trainer)
            if callable(before):
                before(signum, frame)

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, mark)

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
        """Stop here when it was asked for during the last step or the evaluation."""
        if self._is_asked_to_stop(trainer):
            self._stopped = True
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
