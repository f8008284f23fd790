"""The run that repulsion is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import losses
from experiments.report.read_run import Run, read_run
from experiments.report.shared_settings import differences
from experiments.report.training import dynamics

STATIC = "static-kd"
WITHOUT_TEACHER = tuple(
    name for name in losses.__all__ if getattr(getattr(losses, name), "needs_teacher", True) is False
)


def subject_of(runs: Sequence[Run]) -> Run:
    """Return the run that the report is about: the first that repels, else the first."""
    return next((run for run in runs if dynamics(run).repels), runs[0])


def reference_of(runs: Sequence[Run]) -> Run | None:
    """Return the run without repulsion to compare with, None when there is none beside the subject.

    One that distils comes first, ``static-kd`` before others, and then the one with the fewest other settings.
    """
    subject = subject_of(runs)
    candidates = [run for run in runs if run is not subject and not dynamics(run).repels]

    def rank(run: Run) -> tuple[bool, bool, int]:
        return not distils(run), run.experiment != STATIC, len(differences(subject, run))

    return min(candidates, key=rank, default=None)


def distils(run: Run) -> bool:
    """Say whether a run's loss compares with a teacher, as far as its configuration tells."""
    model = run.config.get("model") or {}
    loss = str((model.get("loss") or {}).get("class_path", "losses.CLIPLoss"))
    return bool(model.get("teacher")) and loss.rpartition(".")[2] not in WITHOUT_TEACHER


def newest_static(run: Run) -> Run | None:
    """Find the newest finished ``static-kd`` run with the same data, seed and settings.

    Args:
        run: A run in ``outputs/EXP/RUN``; ``outputs/static-kd`` is searched.

    Returns:
        The run; None when there is none, or when `run` never repels and so needs none.
    """
    if not dynamics(run).repels:
        return None
    found = []
    for results in run.folder.parent.parent.glob(f"{STATIC}/*/results.json"):
        try:
            candidate = read_run(results)
            fits = not dynamics(candidate).repels and set(differences(run, candidate)) <= {"teacher"}
        except (ValueError, OSError, TypeError, KeyError, AttributeError):
            continue  # damaged: the report of another run does not depend on it
        if fits:
            found.append(candidate)
    return max(found, key=lambda candidate: str(candidate.record.get("finished")), default=None)
