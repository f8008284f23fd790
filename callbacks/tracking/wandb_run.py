"""The W&B run of a training: access, step axes, configuration, resumption, preemption."""

from __future__ import annotations

import _thread
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.redaction import redacted
from metrics.names import GROUPS
from models.checkpoints.weights import read_entry
from models.files import write_text

STEP_AXIS = "trainer/global_step"


def active_run(trainer: Trainer) -> Any:
    """Return the W&B run of this process; None without a W&B logger, if disabled, and on ranks above 0."""
    if not trainer.is_global_zero:
        return None
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            return None if getattr(run, "disabled", False) else run
    return None


def uploads_images(trainer: Trainer) -> bool:
    """Return whether images, and results of single images and patients, may go to W&B; see `EvaluationMedia`."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    asked = next((c.upload_images for c in callbacks if hasattr(c, "upload_images")), None)
    return may_upload_images(asked, getattr(trainer, "datamodule", None))


def may_upload_images(asked: bool | None, data: Any) -> bool:
    """Return what the user said of a data module or its class, by default whether its images are simulated."""
    return bool(getattr(data, "simulated", False) if asked is None else asked)


def mark_preempting(trainer: Trainer) -> None:
    """Mark the W&B run as preempted, so that a sweep requeues it; for signal handlers.

    In another thread: the signal may have interrupted W&B itself, which then holds its locks.
    """
    run = active_run(trainer)
    if run is not None:
        _thread.start_new_thread(run.mark_preempting, ())  # `threading` would take a lock of its own here


def metrics_step(trainer: Trainer) -> int:
    """Return the step at which Lightning logs the metrics of an evaluation: that of the last batch."""
    return max(0, trainer.global_step - 1)


def run_id_of(checkpoint: Path | str) -> str | None:
    """Return the id of the W&B run that wrote a Lightning checkpoint, None without W&B."""
    entry = (read_entry(checkpoint, "callbacks") or {}).get(WandbRun.__qualname__)
    run_id = entry.get("run_id") if isinstance(entry, dict) else None
    return run_id if isinstance(run_id, str) else None


class WandbRun(Callback):
    """Define the run's step axes, store its id in checkpoints, and mark it as preempted on SIGTERM.

    Metrics are drawn over the optimiser step, because W&B's own step counts calls and shifts when a run is resumed. A
    preempted run that exits non-zero is requeued by its sweep.
    """

    def __init__(self) -> None:
        self.run_id: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        run = active_run(trainer)
        if run is None:
            return
        self.run_id = run.id
        run.define_metric(STEP_AXIS, hidden=True)
        for group in GROUPS:
            run.define_metric(f"{group}/*", step_metric=STEP_AXIS)

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            run = active_run(trainer)
            if run is not None:
                run.mark_preempting()


class SaveResolvedConfig(SaveConfigCallback):
    """Write the configuration, URLs redacted, to the run's folder and to its W&B run.

    In W&B it is nested as in the YAML files: ``schedule.init_args.start`` has the same name as on the command line.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        path = Path(trainer.default_root_dir) / self.config_filename
        text = self.parser.dump(redacted(self.config), skip_none=False)
        write_text(path, text)
        run = active_run(trainer)
        if run is None:
            return
        config: dict[str, Any] = yaml.safe_load(text)
        config.pop("config", None)  # names of the merged files, not a setting
        run.config.update(config, allow_val_change=True)
