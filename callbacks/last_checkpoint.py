"""The two checkpoints of a run: ``best.ckpt``, which is scored, and ``last.ckpt``, to resume from."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import proxy

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn


def last_checkpoint(trainer: Trainer) -> Path:
    """Return the path of a run's ``last.ckpt``."""
    return Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"


def save_last(trainer: Trainer) -> None:
    """Write ``last.ckpt`` with the state of optimiser and callbacks; every process has to call it."""
    save_atomically(trainer, last_checkpoint(trainer), weights_only=False)


def save_atomically(trainer: Trainer, path: Path, weights_only: bool) -> None:
    """Write a checkpoint so that the file is the old or the new one, never a part; every process has to call it."""
    # Lightning writes to the system's temporary folder first, and moves across file systems by copying.
    partial = path.with_suffix(".partial")
    try:
        trainer.save_checkpoint(partial, weights_only=weights_only)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    if trainer.is_global_zero:
        partial.replace(path)


def gradients_pending(trainer: Trainer) -> bool:
    """Tell whether the gradients of some batches wait for their optimiser step; no checkpoint holds those."""
    return trainer.fit_loop._should_accumulate()


def is_start_of_evaluation(trainer: Trainer, batch_idx: int, dataloader_idx: int) -> bool:
    """Tell whether a validation batch is the first of an evaluation that a training makes."""
    return (
        trainer.state.fn == TrainerFn.FITTING
        and not trainer.sanity_checking
        and batch_idx == dataloader_idx == 0
    )


class BestCheckpoint(ModelCheckpoint):
    """Write the best weights; a class of its own, so that its state never collides with a user's ModelCheckpoint."""

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Do what the base class does, but atomically."""
        save_atomically(trainer, Path(filepath), bool(self.save_weights_only))
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.after_save_checkpoint(proxy(self))


class LastCheckpoint(Checkpoint):
    """Write ``checkpoints/last.ckpt`` at every epoch's end, and before and after every evaluation.

    ``ModelCheckpoint(save_last=True)`` writes its own only together with a better best one, so a killed run would
    resume from its best epoch. This callback stands behind `BestCheckpoint`, whose memory of the best score it saves.

    A training that begins anew in a used folder removes the ``best.ckpt`` of the run that was there before.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove another run's best weights, which this run may never select any in place of."""
        anew = trainer.ckpt_path is None and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if anew and trainer.is_global_zero:
            last_checkpoint(trainer).with_name("best.ckpt").unlink(missing_ok=True)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save before an evaluation; a run that is stopped within it resumes with the whole evaluation."""
        if is_start_of_evaluation(trainer, batch_idx, dataloader_idx) and not gradients_pending(trainer):
            # Lightning takes an evaluation up again whose first batch was started, and no other.
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.increment_started()
            self._save(trainer)
            for counts in (progress.total, progress.current):
                counts.started -= 1  # type: ignore[attr-defined]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save within an epoch; an evaluation at its end is followed by `on_train_epoch_end`."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or gradients_pending(trainer):
            return
        if not trainer.fit_loop.epoch_loop._is_training_done:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            save_last(trainer)
