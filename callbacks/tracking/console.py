"""Console output: start summary of a training, and progress of trainings and evaluations.

A terminal shows a bar redrawn in place; a file or a pipe gets plain lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from callbacks.tracking.wandb_run import active_run
from datamodules.progress import LOG_SECONDS, Progress, show_progress

SHOWN = ("loss", "val/composite")  # metrics beside the progress; more would wrap the line
REDRAW_SECONDS = 0.5
NAMES = ("trunk", "name", "folder")  # constructor arguments of our encoders that name an architecture


def progress_for(callbacks: list[Callback], enabled: bool | None) -> list[Callback]:
    """Return the progress callback of a run: a bar in a terminal, lines elsewhere; none when off or set by the user."""
    if enabled is False or any(isinstance(callback, ProgressBar) for callback in callbacks):
        return []
    return [TerminalProgress() if sys.stdout.isatty() else LogProgress()]


class TerminalProgress(TQDMProgressBar):
    """A bar on one line, redrawn twice a second: reading the loss of every step would wait for a GPU."""

    _drawn = 0.0

    def on_train_batch_end(self, trainer: Trainer, *rest: Any, **more: Any) -> None:
        if trainer.is_last_batch or time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._drawn = time.monotonic()
            super().on_train_batch_end(trainer, *rest, **more)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return _shown(super().get_metrics(trainer, pl_module))


class LogProgress(ProgressBar):
    """A plain line after every epoch, and every half minute within a long one."""

    def disable(self) -> None:
        """Do nothing: Lightning calls this on every process but the first, which alone prints."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._said = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if time.monotonic() - self._said >= LOG_SECONDS:
            self._say(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._say(trainer, pl_module)

    @rank_zero_only
    def _say(self, trainer: Trainer, module: LightningModule) -> None:
        self._said = time.monotonic()
        epochs = "" if (trainer.max_epochs or -1) < 1 else f"/{trainer.max_epochs}"
        metrics = _shown(self.get_metrics(trainer, module)).items()
        values = [
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in metrics
        ]
        place = f"epoch {trainer.current_epoch + 1}{epochs}, step {trainer.global_step}"
        place += f"/{trainer.estimated_stepping_batches}"
        print(f"{place}: {', '.join([*values, f'{self._said - self._started:.0f} s'])}", flush=True)


def _shown(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in SHOWN if name in metrics}


class StartSummary(Callback):
    """Print what is trained: corpus, towers, loss, steps, logging and folder."""

    def __init__(self, preset: str, config: Namespace, folder: Path) -> None:
        self.preset = preset
        self.config = config
        self.folder = folder

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        config = self.config
        on = f"{trainer.world_size} x {pl_module.device.type}, {trainer.precision}"
        print(f"training {config.experiment} on {self.preset} (seed {config.seed_everything}, {on})")
        lines = {
            "corpus": self._corpus(trainer),
            "teacher": self._tower("teacher", pl_module.teacher),
            "student": self._tower("student", pl_module.student),
            "loss": type(pl_module.loss).__name__,
            "steps": _steps(trainer),
            "logging": ", ".join(_named(logger, trainer) for logger in trainer.loggers) or "none",
            "folder": str(self.folder),
        }
        for name, text in lines.items():
            print(f"  {name:8} {text}")
        sys.stdout.flush()

    def _corpus(self, trainer: Trainer) -> str:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        held_out = " and ".join(f"{len(data.split(name)):,} {name}" for name in ("val", "test"))
        return (
            f"{trainer.num_training_batches:,} batches of {data.batch_size} pairs an epoch; {held_out} images"
        )

    def _tower(self, role: str, model: Any) -> str:
        if model is None:
            return "none"
        recipe, settings = model.recipe(), (self.config.model.get(role) or {}).get("init_args") or {}
        words = [recipe["class_path"].split(".")[-1]]
        words += [str(recipe["init_args"][name]) for name in NAMES if recipe["init_args"].get(name)]
        files = [str(settings[name]) for name in ("path", "weights", "checkpoint") if settings.get(name)]
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        return ", ".join([" ".join(words), f"{millions:,.1f} M parameters", *files])


def _steps(trainer: Trainer) -> str:
    epochs, every = trainer.max_epochs or 0, trainer.check_val_every_n_epoch
    text = f"{trainer.estimated_stepping_batches}"
    text += f" in {epochs} epoch{'s' * (epochs > 1)}" if epochs > 0 else ""
    return f"{text}, evaluated every {'epoch' if every == 1 else f'{every} epochs'}" if every else text


def _named(logger: Any, trainer: Trainer) -> str:
    if isinstance(logger, CSVLogger):
        return "metrics.csv"
    if isinstance(logger, WandbLogger):
        run = active_run(trainer)
        return "W&B disabled" if run is None else f"W&B {run.url or 'offline'}"
    return type(logger).__name__.removesuffix("Logger")


def progress_bar(what: str, unit: str) -> AbstractContextManager[Progress]:
    """Show the progress (see `show_progress`) on the first process only."""
    return show_progress(what, unit, quiet=getattr(rank_zero_only, "rank", 0) != 0)


def with_progress(loader: DataLoader, what: str) -> Iterator[dict[str, Any]]:
    """Yield the batches of a loader and show the progress."""
    with progress_bar(what, " batches") as progress:
        for done, batch in enumerate(loader, start=1):
            yield batch
            progress(done, len(loader))
