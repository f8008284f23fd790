"""The best value so far of every headline metric."""

from __future__ import annotations

import math
from typing import Any

from lightning import Callback, LightningModule, Trainer

from metrics.names import best_name, headline_directions


class BestMetrics(Callback):
    """Log ``best/<metric>`` at every evaluation.

    A sweep must optimise it, since the last value of a metric may be worse than an earlier one. It stands
    behind the evaluations, whose metrics it reads.
    """

    def __init__(self) -> None:
        self.best: dict[str, float] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the best so far and log it."""
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
                pl_module.log(best_name(name), self.best[name], batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """Return the best values, so that a resumed run knows them."""
        return {"best": dict(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best values of an interrupted run."""
        self.best = dict(state_dict["best"])
