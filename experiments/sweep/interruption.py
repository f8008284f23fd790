"""Which trials of a local sweep ended with their runner, and not by themselves."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

REASON = "reason"  # a failed trial's attribute


def was_interrupted(trial: FrozenTrial) -> bool:
    """Say whether a trial ended with its runner: the failed ones have a reason."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs
