"""W&B's early stopping rule, so that a sweep stops the same trials here as there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from experiments.sweep.interruption import was_interrupted


def bands(settings: Mapping[str, Any]) -> list[int]:
    """Return the evaluation counts at which trials are compared, ascending.

    From above, ``max_iter / eta, max_iter / eta^2, ...`` (`s` of them), or, where one of the two is missing,
    ``min_iter, min_iter eta, min_iter eta^2, ...``

    Args:
        settings: The sweep file's ``early_terminate``.
    """
    eta = settings.get("eta", 3)
    if {"max_iter", "s"} <= set(settings):
        falling = (settings["max_iter"] / eta**k for k in range(1, int(settings["s"]) + 1))
        return sorted(int(band) for band in falling if band >= 1)
    return [int(settings["min_iter"] * eta**k) for k in range(30)]


class HyperbandRule(BasePruner):
    """Stop a trial that is not among the best 1/eta at the latest band that it has reached.

    At each band the threshold is the value of rank ``n / eta`` among the n trials that got there. This is
    W&B's rule (https://docs.wandb.ai/models/sweeps/define-sweep-configuration, early_terminate), a single
    bracket of Hyperband (Li et al., JMLR 2018). Iterations count LOGGED EVALUATIONS of the sweep's metric.

    Args:
        settings: The sweep file's ``early_terminate``.
        maximize: Whether a greater metric is better.
    """

    def __init__(self, settings: Mapping[str, Any], maximize: bool) -> None:
        self.bands = bands(settings)
        self.eta = float(settings.get("eta", 3))
        self.strict = bool(settings.get("strict", True))
        self.sign = -1.0 if maximize else 1.0

    def _losses(self, trial: FrozenTrial) -> list[float]:
        values = (value for _, value in sorted(trial.intermediate_values.items()))
        return [self.sign * value for value in values if math.isfinite(value)]

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Say whether `trial` shall stop now."""
        # An interrupted trial's settings run again: with both, one run would be two rivals.
        trials = (other for other in study.get_trials(deepcopy=False) if not was_interrupted(other))
        histories = [self._losses(other) for other in trials]
        return self.stops(self._losses(trial), histories)

    def stops(self, own: Sequence[float], histories: Sequence[Sequence[float]]) -> bool:
        """Apply the rule to losses (less is better), `own` being one of `histories`."""
        reached = [band for band in self.bands if band <= len(own)]
        if not reached:
            return False
        band = reached[-1]
        rivals = sorted(history[band - 1] for history in histories if len(history) >= band)
        threshold = rivals[int(len(rivals) / self.eta)]
        return (own[band - 1] if self.strict else min(own)) > threshold
