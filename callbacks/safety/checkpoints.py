"""Checkpoints of a run: ``best.ckpt`` is scored, ``last.ckpt`` resumes; a signal stops with the latter."""

from __future__ import annotations

import _thread
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import proxy

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.tracking.wandb_run import mark_preempting
from callbacks.weight_averaging import TRAINED, EMAWeightAveraging
from models.messages import one_line

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
DEADLINE_S = 120.0
"""Seconds from SIGTERM or SIGUSR1 to the end of a batch; one that waits for data or for a process may never end."""
PREVIOUS = "previous.ckpt"
"""The checkpoint before ``last.ckpt``, for a run whose last one is damaged."""


def last_checkpoint(trainer: Trainer) -> Path:
    """Return the path of a run's ``last.ckpt``."""
    return Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"


def save_atomically(
    trainer: Trainer, path: Path, weights_only: bool = False, predecessor: Path | None = None
) -> None:
    """Write a checkpoint that replaces `path` only once it is complete; every process has to call it.

    The replaced one stays as `predecessor`.
    """
    # Lightning writes to the system's temporary folder first, and moves across file systems by copying.
    partial = path.with_suffix(".partial")
    try:
        trainer.save_checkpoint(partial, weights_only=weights_only)
    except BaseException:  # a KeyboardInterrupt, too
        partial.unlink(missing_ok=True)
        raise
    if trainer.is_global_zero:
        if predecessor is not None and path.is_file():
            predecessor.unlink(missing_ok=True)
            try:
                predecessor.hardlink_to(path)  # at every moment there is a complete `path`
            except OSError:  # a file system without links
                shutil.copyfile(path, predecessor)
        partial.replace(path)


def save_last(trainer: Trainer) -> None:
    """Write ``last.ckpt`` and keep the former one as `PREVIOUS`; every process has to call it."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    path = last_checkpoint(trainer)
    save_atomically(trainer, path, predecessor=path.with_name(PREVIOUS))


def _gradients_pending(trainer: Trainer) -> bool:
    """Return whether accumulated gradients wait for their optimiser step; checkpoints do not hold them."""
    return trainer.fit_loop._should_accumulate()


def _fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


class BestCheckpoint(ModelCheckpoint):
    """Write the best weights atomically; the class keeps its state apart from that of a user's ModelCheckpoint."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score and weights, also in a folder that was moved or renamed since.

        A run that goes on from another run's checkpoint selects among its own weights only.
        """
        best = state_dict["best_model_path"]
        if best and state_dict["dirpath"] != self.dirpath:
            here = Path(str(self.dirpath)) / Path(best).name
            own = here.is_file()
            state_dict = state_dict | {
                "dirpath": self.dirpath if own else state_dict["dirpath"],
                "best_model_path": str(here) if own else "",
                "kth_best_model_path": str(here),
                "best_k_models": {str(here): score for score in state_dict["best_k_models"].values()},
                "last_model_path": "",
            }
        super().load_state_dict(state_dict)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        save_atomically(trainer, Path(filepath), bool(self.save_weights_only))
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.after_save_checkpoint(proxy(self))


class LastCheckpoint(Checkpoint):
    """Write ``checkpoints/last.ckpt``, also when a run is interrupted, and print the command that resumes it.

    It is written at the end of every epoch, and before and after every evaluation;
    ``ModelCheckpoint(save_last=True)`` writes its own only together with a better best one. Must be the last
    callback, so that all others see the last batch, and behind `BestCheckpoint`, whose best score it saves. A new
    training in a used folder removes the former checkpoints.

    In a training step, Ctrl-C, SIGTERM and SIGUSR1 are deferred to the end of the optimiser step: before that, weights
    and moments may be half updated, and accumulated gradients would be lost. All processes of a run stop at the same
    step. A second Ctrl-C, and a batch that takes longer than `DEADLINE_S`, end the process at once and leave
    ``last.ckpt`` as it is. In an evaluation signals stop at once: the state before it is saved. After SIGUSR1, which
    SLURM sends ahead of a job's time limit (``sbatch --signal=USR1@300``), the job is requeued.

    Args:
        resume: Returns the command that resumes, given the path of the checkpoint.
    """

    def __init__(
        self, resume: Callable[[Path], str] = 'the same command and ARGS="--ckpt_path={}"'.format
    ) -> None:
        self._resume = resume
        self._signal = 0
        self._must_save = self._evaluating = self._stopping = False
        self._last_progress_s = 0.0  # clock at the signal, or at the end of the last batch since

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to resume a training of averaged weights without the average.

        Raises:
            ValueError: The checkpoint has an average and the run no `EMAWeightAveraging`.
        """
        averaging = any(isinstance(one, EMAWeightAveraging) for one in trainer.callbacks)  # type: ignore[attr-defined]
        if trainer.state.fn == TrainerFn.FITTING and TRAINED in checkpoint and not averaging:
            raise ValueError(
                "the training to resume averages its weights; add callbacks.EMAWeightAveraging to trainer.callbacks, "
                "or start a new run"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers for the training; Lightning restores the previous ones at its end.

        Also remove the checkpoints of a previous run: this one may never select any, and does not go on from them.

        Raises:
            SIGTERMException: SIGTERM came while the training was prepared.
        """
        if trainer.received_sigterm:
            raise SIGTERMException
        self._install(trainer, evaluating=False)
        new = trainer.ckpt_path is None and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if new and trainer.is_global_zero:
            for name in ("best.ckpt", "last.ckpt", PREVIOUS):
                last_checkpoint(trainer).with_name(name).unlink(missing_ok=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers for the test.

        Raises:
            KeyboardInterrupt: Ctrl-C came after the last step of the training.
            SIGTERMException: Another signal did.
        """
        if self._signal:
            raise KeyboardInterrupt if self._signal == signal.SIGINT else SIGTERMException
        self._install(trainer, evaluating=True)

    def _install(self, trainer: Trainer, evaluating: bool) -> None:
        self._signal, self._must_save, self._evaluating = 0, False, evaluating
        self._stopping, self._last_progress_s = False, 0.0

        def handle(signum: int, _: FrameType | None) -> None:
            if signum == signal.SIGINT and (self._signal or self._evaluating):
                raise KeyboardInterrupt
            self._signal = self._signal or signum
            if signum == signal.SIGINT:
                print("\nstopping after this step (Ctrl-C again stops at once) ...", flush=True)
                return
            mark_preempting(trainer)
            if self._evaluating:
                if trainer.strategy.launcher is not None:
                    trainer.strategy.launcher.kill(signum)  # forwards the signal to the other processes
                raise SIGTERMException
            if not self._last_progress_s:  # not by `threading`, whose locks the signal may have interrupted
                self._last_progress_s = time.monotonic()
                _thread.start_new_thread(self._end_when_overdue, (trainer,))

        if threading.current_thread() is threading.main_thread():
            for signum in STOPS:
                signal.signal(signum, handle)

    def _end_when_overdue(self, trainer: Trainer) -> None:
        """End this process and its children when the step is overdue: nothing else reaches a blocked read."""
        while (left := self._last_progress_s + DEADLINE_S - time.monotonic()) > 0:
            time.sleep(left)
            if self._stopping or not self._last_progress_s:
                return
        path = last_checkpoint(trainer)
        resume = f"; resume with: {self._resume(path)}" if path.is_file() else ""
        waited = f"the step did not end within {DEADLINE_S:g} s of {signal.Signals(self._signal).name}"
        print(
            f"error: {waited}, it waits for data or for another process{resume}", file=sys.stderr, flush=True
        )
        for child in multiprocessing.active_children():
            child.kill()
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        os._exit(128 + signal.SIGTERM)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save before an evaluation, and stop here if a signal came in the last step; from here on stop at once."""
        if not (batch_idx == dataloader_idx == 0 and _fitting(trainer)):
            return
        pending = _gradients_pending(trainer)
        if not pending:
            # Lightning resumes an evaluation only if its first batch was started.
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.increment_started()
            save_last(trainer)
            for counts in (progress.total, progress.current):
                counts.started -= 1  # type: ignore[attr-defined]
        self._stop_if_asked(trainer, save=pending)
        self._evaluating = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Defer signals again: checkpoints are about to be written."""
        self._evaluating = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after an evaluation within an epoch; `on_train_epoch_end` follows one at its end."""
        within = _fitting(trainer) and not trainer.fit_loop.epoch_loop._is_training_done
        if within and not _gradients_pending(trainer):
            save_last(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Stop here if a signal came in this step."""
        # Of an accumulation every batch counts.
        self._last_progress_s = self._last_progress_s and time.monotonic()
        if not _gradients_pending(trainer) and not trainer.fit_loop.epoch_loop._is_training_done:
            self._stop_if_asked(trainer, save=True, logged=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, and stop here if a signal came in an epoch's last step without evaluation, or after the evaluation."""
        save_last(trainer)
        self._stop_if_asked(trainer, save=True)

    def _stop_if_asked(self, trainer: Trainer, save: bool, logged: bool = True) -> None:
        if not trainer.strategy.reduce_boolean_decision(self._signal != 0, all=False):
            return
        self._must_save, self._stopping = save, True
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if logged:
            raise SIGTERMException
        trainer._signal_connector.received_sigterm = True  # Lightning raises once this batch is logged

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException):
            return
        self._stopping = True
        path = last_checkpoint(trainer)
        if self._must_save:
            save_last(trainer)
        if path.is_file() and trainer.is_global_zero:
            where = f" at step {trainer.global_step}" if self._must_save else ""
            print(f"\ninterrupted{where}; resume with: {self._resume(path)}", flush=True)
        if self._signal == signal.SIGUSR1 and "SLURM_JOB_ID" in os.environ and trainer.is_global_zero:
            requeue(os.environ["SLURM_JOB_ID"])


def requeue(job: str) -> None:
    """Ask SLURM to run a job again; it finds its ``last.ckpt`` by its id. A failure is one line."""
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
        print(f"requeued SLURM job {job}", flush=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = one_line(getattr(error, "stderr", None) or error)
        print(f"warning: SLURM job {job} was not requeued ({reason})", file=sys.stderr, flush=True)
