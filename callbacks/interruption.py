"""Stop cleanly on Ctrl-C and SIGTERM, keeping a checkpoint to resume from."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException


class SaveOnInterrupt(Callback):
    """Save ``checkpoints/last.ckpt`` when a run is interrupted, and say how to resume it.

    Ctrl-C is deferred to the end of the running batch, because an exception in the middle of an optimiser
    step would leave weights and moments half updated; a second Ctrl-C stops at once. Lightning defers
    SIGTERM in the same way.
    """

    def __init__(self) -> None:
        self._requested = False
        self._previous: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C for the time of the training."""
        self._requested = False
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._request_stop)

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        print("\nstopping after this batch (Ctrl-C again stops at once) ...", flush=True)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Stop here when Ctrl-C was pressed during the batch."""
        if self._requested:
            raise KeyboardInterrupt

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the interrupted run."""
        self._restore_handler()
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException) or trainer.global_step == 0:
            return
        path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        trainer.save_checkpoint(path)
        _say(f'interrupted at step {trainer.global_step}; resume with ARGS="--ckpt_path={path}"')

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give Ctrl-C back."""
        self._restore_handler()

    def _restore_handler(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


@rank_zero_only
def _say(message: str) -> None:
    print(f"\n{message}", flush=True)
