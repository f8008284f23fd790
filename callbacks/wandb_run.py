"""One W&B run for one training, however often it is interrupted."""

from __future__ import annotations

import _thread
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from metrics.names import GROUPS

STEP_AXIS = "trainer/global_step"


def active_run(trainer: Trainer) -> Any:
    """Return the W&B run that this process may talk to, or None.

    There is none without a W&B logger, with ``WANDB_MODE=disabled``, and on other ranks than the first.
    """
    if not trainer.is_global_zero:
        return None
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            return None if getattr(run, "disabled", False) else run
    return None


def uploads_images(trainer: Trainer) -> bool:
    """Whether images, and what is known of single images and patients, may go to W&B; see `EvaluationMedia`."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    asked = next((c.upload_images for c in callbacks if hasattr(c, "upload_images")), None)
    if asked is None:
        return bool(getattr(getattr(trainer, "datamodule", None), "simulated", False))
    return bool(asked)


def mark_preempting(trainer: Trainer) -> None:
    """Tell W&B that the machine takes the run away, so that it is queued again however it ends; at once.

    For signal handlers: what they interrupt may be W&B itself, holding its locks, so another thread waits for those.
    """
    run = active_run(trainer)
    if run is not None:
        _thread.start_new_thread(run.mark_preempting, ())  # `threading` would take a lock of its own here


def metrics_step(trainer: Trainer) -> int:
    """Return the step at which Lightning logs the metrics of an evaluation: that of the last batch."""
    return max(0, trainer.global_step - 1)


def run_id_of(checkpoint: Path | str) -> str | None:
    """Read the id of the W&B run that wrote a checkpoint.

    Args:
        checkpoint: Path of a Lightning checkpoint.

    Returns:
        The id, or None when the checkpoint was written without W&B.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The file is no checkpoint.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint to resume from")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a checkpoint that can be resumed from ({reason})") from error
    states = content.get("callbacks", {}) if isinstance(content, dict) else {}
    run_id: str | None = states.get(WandbRun.__qualname__, {}).get("run_id")
    return run_id


class WandbRun(Callback):
    """Set up the run's step axes, remember its id in checkpoints, and mark it preempting on SIGTERM.

    Every group of metrics is drawn over the optimiser step, because W&B's own step counts calls and so
    shifts when a run is resumed. A run marked preempting that exits non-zero is queued again by its sweep.
    """

    def __init__(self) -> None:
        self.run_id: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Define the axes."""
        run = active_run(trainer)
        if run is None:
            return
        self.run_id = run.id
        run.define_metric(STEP_AXIS, hidden=True)
        for group in GROUPS:
            run.define_metric(f"{group}/*", step_metric=STEP_AXIS)

    def state_dict(self) -> dict[str, Any]:
        """Return the run's id."""
        return {"run_id": self.run_id}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell W&B that the machine takes the run away."""
        if isinstance(exception, SIGTERMException):
            run = active_run(trainer)
            if run is not None:
                run.mark_preempting()
