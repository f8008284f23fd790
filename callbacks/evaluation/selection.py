"""Callbacks of checkpoint selection: composite score, best values, evaluation of the last epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.evaluation.zero_shot_evaluation import ZeroShotEvaluation
from metrics.benchmarks import BENCHMARKS, composite_score
from metrics.names import STUDENT, VAL_COMPOSITE, headline_directions


class CompositeScore(Callback):
    """Log ``val/composite`` from the evaluations of the same epoch (see `metrics.composite_score`).

    Must come after the evaluations, whose benchmarks it covers.
    """

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        scores = {
            name: details[BENCHMARKS[name].headline]
            for evaluation in callbacks
            if isinstance(evaluation, ZeroShotEvaluation)
            for name, details in evaluation.validation.get(STUDENT, {}).items()
        }
        if scores and not trainer.sanity_checking:
            pl_module.log(VAL_COMPOSITE, composite_score(scores), prog_bar=True, sync_dist=True)


class BestMetrics(Callback):
    """Log the best value so far of every headline metric, ``best/<metric>``, at every evaluation.

    Sweeps optimise it, since the last value may be worse than an earlier one. Must come after the evaluations.
    """

    def __init__(self) -> None:
        self.best: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the values of another run, whose checkpoint this one starts from: best.ckpt is of this run, too."""
        if not Path(trainer.default_root_dir, "checkpoints", "best.ckpt").is_file():
            self.best = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        for name, direction in headline_directions().items():
            if name not in trainer.callback_metrics:
                continue
            value = float(trainer.callback_metrics[name])
            best = self.best.get(name)
            better = best is None or (value > best if direction == "max" else value < best)
            if better and not math.isnan(value):
                self.best[name] = value
            if name in self.best:
                pl_module.log(f"best/{name.removeprefix('val/')}", self.best[name], batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        return {"best": dict(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = dict(state_dict["best"])


class EvaluateLastEpoch(Callback):
    """Evaluate the final weights, whether or not ``check_val_every_n_epoch`` divides the number of epochs.

    If ``max_steps`` ends mid-epoch, evaluate at that step. Without this, the weights at the end of the schedule could
    not be selected.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Request it here too: Lightning calls no epoch-start hook when resuming mid-epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.check_val_every_n_epoch and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Request an evaluation after the last of ``max_steps``; Lightning runs one when it is told to stop."""
        if 0 <= trainer.max_steps <= trainer.global_step:
            trainer.check_val_every_n_epoch = trainer.check_val_every_n_epoch and 1
            trainer.should_stop = True
