"""The checkpoints of a run: ``best.ckpt``, which is scored, and ``last.ckpt``, to resume from."""

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


def save_atomically(trainer: Trainer, path: Path, weights_only: bool = False) -> None:
    """Write a checkpoint that replaces `path` only once it is complete; every process has to call it."""
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
    """Return whether accumulated gradients wait for their optimiser step; checkpoints do not hold them."""
    return trainer.fit_loop._should_accumulate()


def starts_evaluation(trainer: Trainer, batch_idx: int, dataloader_idx: int) -> bool:
    """Return whether a validation batch is the first of an evaluation within a training."""
    fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
    return fitting and batch_idx == dataloader_idx == 0


class BestCheckpoint(ModelCheckpoint):
    """Write the best weights atomically; the class keeps its state apart from that of a user's ModelCheckpoint."""

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        save_atomically(trainer, Path(filepath), bool(self.save_weights_only))
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.after_save_checkpoint(proxy(self))


class LastCheckpoint(Checkpoint):
    """Write ``checkpoints/last.ckpt`` at the end of every epoch, and before and after every evaluation.

    ``ModelCheckpoint(save_last=True)`` writes its own only together with a better best one, so a killed run would
    resume from its best epoch. Must come after `BestCheckpoint`, whose best score it saves.

    A new training in a used folder removes the ``best.ckpt`` of the previous run.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the best weights of a previous run, in case this run never selects any."""
        new = trainer.ckpt_path is None and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if new and trainer.is_global_zero:
            last_checkpoint(trainer).with_name("best.ckpt").unlink(missing_ok=True)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save before an evaluation; a run that is stopped within it repeats the whole evaluation."""
        if starts_evaluation(trainer, batch_idx, dataloader_idx) and not gradients_pending(trainer):
            # Lightning resumes an evaluation only if its first batch was started.
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.increment_started()
            self._save(trainer)
            for counts in (progress.total, progress.current):
                counts.started -= 1  # type: ignore[attr-defined]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after an evaluation within an epoch; `on_train_epoch_end` follows one at its end."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or gradients_pending(trainer):
            return
        if not trainer.fit_loop.epoch_loop._is_training_done:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            save_atomically(trainer, last_checkpoint(trainer))
