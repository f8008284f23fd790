"""What happened in training: the weight's curve, where it crosses zero, and the scores on either side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from callbacks.off_diagonal_schedule import OffDiagonalSchedule, weight_at
from experiments.report.read_run import Run
from metrics.names import OFF_DIAGONAL_WEIGHT, VAL_COMPOSITE

ATTRACT, REPEL = "attract", "repel"
Floats = NDArray[np.float64]


def series(run: Run, name: str) -> tuple[Floats, Floats]:
    """Return steps [N], rising, and values [N] of a logged number; empty where it was never logged.

    Of a step that was logged twice, as a run killed and resumed does, the later entry counts.
    """
    rows = _logged(run, name)
    return rows["step"].to_numpy(dtype=np.float64), rows[name].to_numpy(dtype=np.float64)


def _logged(run: Run, *names: str) -> pd.DataFrame:
    """Return the rows, one a step in order, in which all of these numbers were logged."""
    columns = ["step", *names]
    if not set(columns) <= set(run.history.columns):
        return pd.DataFrame(columns=columns, dtype=np.float64)
    rows = run.history[columns].dropna().drop_duplicates("step", keep="last")
    return rows.sort_values("step", kind="stable")


def zero_crossing(steps: Sequence[float] | Floats, weights: Sequence[float] | Floats) -> float | None:
    """Return the step at which a weight turns from positive to negative, interpolated between log entries.

    Args:
        steps: Optimiser steps, rising, [N].
        weights: The weight at each, [N].

    Returns:
        The first such step; None when the weight never turns negative, or was never positive.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    positive = np.flatnonzero(y > 0)
    negative = np.flatnonzero(y < 0)
    negative = negative[negative > positive[0]] if len(positive) else negative[:0]
    if not len(negative):
        return None
    after = int(negative[0])
    before = int(positive[positive < after][-1])
    share = y[before] / (y[before] - y[after])
    return float(x[before] + share * (x[after] - x[before]))


@dataclass(frozen=True)
class Evaluation:
    """The validation patients' scores at one point of training.

    Attributes:
        step: Optimiser step.
        epoch: Epoch, counted from 1.
        composite: The score that selects.
        weight: Off-diagonal weight at the step; None without a schedule.
    """

    step: float
    epoch: int
    composite: float
    weight: float | None

    @property
    def phase(self) -> str:
        """``attract``, ``repel``, or nothing without a schedule."""
        if self.weight is None:
            return ""
        return REPEL if self.weight < 0 else ATTRACT


@dataclass(frozen=True)
class Dynamics:
    """Training as far as it answers when repulsion helped.

    Attributes:
        crossing: Step at which the weight crosses zero; None when it never does.
        evaluations: Scores on validation patients, in order.
        start_weight: Weight of the first step; None without a schedule.
        end_weight: Weight of the last step.
        planned: Weights at both ends of the schedule; None where it is not known, and the weights are those logged.
        completed: Whether training went through the whole schedule.
    """

    crossing: float | None
    evaluations: tuple[Evaluation, ...]
    start_weight: float | None
    end_weight: float | None
    planned: tuple[float, float] | None = None
    completed: bool = False

    @property
    def repels(self) -> bool:
        """Whether the weight was ever negative."""
        return any(weight is not None and weight < 0 for weight in (self.start_weight, self.end_weight))

    @property
    def best(self) -> Evaluation | None:
        """The evaluation that selected the checkpoint; of equal ones the first."""
        return max(self.evaluations, key=lambda point: point.composite, default=None)

    def of_phase(self, phase: str) -> list[Evaluation]:
        """Return the evaluations made while the weight attracted or repelled."""
        return [point for point in self.evaluations if point.phase == phase]

    def last_before_repulsion(self) -> Evaluation | None:
        """Return the last evaluation before the weight turned negative."""
        points = self.of_phase(ATTRACT)
        return points[-1] if points else None


def dynamics(run: Run) -> Dynamics:
    """Work out a run's dynamics from its schedule and its ``metrics.csv``."""
    steps, weights = applied_weights(run)
    points = []
    for step, epoch, value in _logged(run, "epoch", VAL_COMPOSITE).itertuples(index=False):
        weight = float(np.interp(step, steps, weights)) if len(steps) else None
        points.append(Evaluation(float(step), int(epoch) + 1, float(value), weight))
    first, last = (float(weights[0]), float(weights[-1])) if len(weights) else (None, None)
    schedule, total = _schedule(run), run.record.get("scheduled_steps")
    planned = None if schedule is None or not total else (schedule(0.0), schedule(1.0))
    return Dynamics(
        zero_crossing(steps, weights),
        tuple(points),
        start_weight=first,
        end_weight=last,
        planned=planned,
        completed=planned is not None and run.record["steps"] >= total,
    )


def applied_weights(run: Run) -> tuple[Floats, Floats]:
    """Return steps [N], rising, and the off-diagonal weight [N] at each; empty without a schedule.

    Every step of the schedule where it is known. The logged points, which a short run has few of or none, stand in
    only for a schedule that is not this project's.
    """
    schedule, total = _schedule(run), run.record.get("scheduled_steps")
    if schedule is None or not total:
        return series(run, OFF_DIAGONAL_WEIGHT)
    steps = np.arange(run.record["steps"], dtype=np.float64)
    return steps, np.array([schedule(step / total) for step in steps], dtype=np.float64)


def _schedule(run: Run) -> Callable[[float], float] | None:
    """Return weight over progress as the run's configuration has it; None where it does not say our schedule."""
    config = run.config.get("schedule") or {}
    if not str(config.get("class_path")).endswith(f".{OffDiagonalSchedule.__name__}"):
        return None
    schedule: Callable[[float], float] = partial(weight_at, **(config.get("init_args") or {}))
    try:
        schedule(0.0), schedule(1.0)
    except (
        TypeError,
        ValueError,
    ):  # written by hand or by another version: keys that ours lacks, or lacks keys
        return None
    return schedule


def epoch_of(run: Run, step: float) -> float | None:
    """Return the epoch, counted from 1 with a fraction, in which a step lies; None when it cannot be told."""
    length = _steps_of_epoch(run)
    return 1 + step / length if length is not None else None


def _steps_of_epoch(run: Run) -> float | None:
    """Return the optimiser steps of an epoch; estimated where no evaluation tells them.

    An entry at step s of epoch e (both from 0) says that an epoch has at least (s + 1) / (e + 1) steps and at
    most s / e. An evaluation stands at the last step of its epoch, where the first is exact. Entries of
    training alone, written every few steps, leave a range, of which this is the middle.
    """
    evaluated = _logged(run, "epoch", VAL_COMPOSITE)
    rows = evaluated if len(evaluated) else _logged(run, "epoch")
    if not len(rows):
        return None
    least = float(((rows["step"] + 1) / (rows["epoch"] + 1)).max())
    later = rows[rows["epoch"] > 0]
    if len(evaluated) or not len(later):
        return least
    return (least + float((later["step"] / later["epoch"]).min())) / 2
