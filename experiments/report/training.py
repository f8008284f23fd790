"""Training: the weight's schedule, where it crosses zero, the validation scores on either side, and the curves."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from callbacks.off_diagonal_schedule import OffDiagonalSchedule
from experiments.report.read_run import FinishedRun
from figures.curves import Curve, Panel, curves_figure
from figures.style import BLUE, CYCLE, GREEN, INK, MUTED, RED, looks
from metrics.benchmarks import BENCHMARKS
from metrics.names import (
    DIAGONAL_CORRELATION,
    LOGIT_SCALE,
    OFF_DIAGONAL_CORRELATION,
    OFF_DIAGONAL_WEIGHT,
    STUDENT,
    TEACHER,
    VAL_COMPOSITE,
    VAL_LOSS,
    validation_name,
)

ATTRACT, REPEL = "attract", "repel"
NOTABLE_F1 = 0.01
Floats = NDArray[np.float64]


def series(run: FinishedRun, name: str) -> tuple[Floats, Floats]:
    """Return steps [N], rising, and values [N] of a logged number; empty where it was never logged."""
    rows = _logged(run, name)
    return rows["step"].to_numpy(dtype=np.float64), rows[name].to_numpy(dtype=np.float64)


def _logged(run: FinishedRun, *names: str) -> pd.DataFrame:
    """Return the rows in which all of these numbers were logged, in order; of a step logged twice the later one."""
    columns = ["step", *names]
    if not set(columns) <= set(run.history.columns):
        return pd.DataFrame(columns=columns, dtype=np.float64)
    rows = run.history[columns].dropna().drop_duplicates("step", keep="last")
    return rows.sort_values("step", kind="stable")


def zero_crossing(steps: Sequence[float] | Floats, weights: Sequence[float] | Floats) -> float | None:
    """Return the first step at which a weight [N] turns from positive to negative, interpolated; None without one."""
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    signed = np.flatnonzero(y)
    turns = np.flatnonzero((y[signed[:-1]] > 0) & (y[signed[1:]] < 0))
    if not len(turns):
        return None
    before, after = signed[turns[0]], signed[turns[0] + 1]
    share = y[before] / (y[before] - y[after])
    return float(x[before] + share * (x[after] - x[before]))


class ScorePoint(NamedTuple):
    """The validation score at one point of training: step, epoch from 1, score, and `ATTRACT`, `REPEL` or nothing."""

    step: float
    epoch: int
    composite: float
    phase: str


@dataclass(frozen=True)
class Dynamics:
    """The scheduled weight and validation scores over a run's training.

    Attributes:
        steps: Steps at which the weight is known, rising, [N]: every one where the schedule is known, else those
            logged; empty without a schedule.
        weights: The scheduled weight at each, [N].
        crossing: Step at which the weight crosses zero; None when it never does.
        evaluations: Scores on validation patients, in order.
        monitor: Metric that selected the scored checkpoint; None: it holds the last weights.
    """

    steps: Floats
    weights: Floats
    crossing: float | None
    evaluations: tuple[ScorePoint, ...]
    monitor: str | None = VAL_COMPOSITE

    @property
    def selects(self) -> bool:
        """Whether the best of `evaluations` selected the scored checkpoint."""
        return self.monitor == VAL_COMPOSITE

    @property
    def repels(self) -> bool:
        """Whether the weight was ever negative."""
        return bool((self.weights < 0).any())

    @property
    def best(self) -> ScorePoint | None:
        """The evaluation with the best score; of equal ones the first."""
        return max(self.evaluations, key=lambda point: point.composite, default=None)

    @property
    def checkpoint(self) -> ScorePoint | None:
        """The evaluation of the scored checkpoint; None where another metric selected it."""
        if self.monitor is None:
            return next(reversed(self.evaluations), None)
        return self.best if self.selects else None

    def of_phase(self, phase: str) -> list[ScorePoint]:
        """Return the evaluations made while the weight attracted or repelled."""
        return [point for point in self.evaluations if point.phase == phase]


def dynamics(run: FinishedRun) -> Dynamics:
    """Return a run's dynamics from its schedule and its ``metrics.csv``."""
    schedule, total = _schedule(run), run.record.get("scheduled_steps")
    if schedule is None or not total:
        names = [str(name) for name in run.history if re.fullmatch(r"train/\w+_weight", str(name))]
        steps, weights = series(run, names[0] if names else OFF_DIAGONAL_WEIGHT)
    else:  # up to the end of the last step, so that a whole run ends with the schedule's last weight
        steps = np.arange(run.record["steps"] + 1, dtype=np.float64)
        weights = np.array([schedule(step / total) for step in steps], dtype=np.float64)
    points = []
    for step, epoch, value in _logged(run, "epoch", VAL_COMPOSITE).itertuples(index=False):
        phase = (REPEL if np.interp(step, steps, weights) < 0 else ATTRACT) if len(steps) else ""
        points.append(ScorePoint(float(step), int(epoch) + 1, float(value), phase))
    monitor = run.record.get("selection", {}).get("monitor", VAL_COMPOSITE)
    return Dynamics(steps, weights, zero_crossing(steps, weights), tuple(points), monitor)


def _schedule(run: FinishedRun) -> Callable[[float], float] | None:
    """Return weight over progress; None where the configuration does not describe our schedule."""
    config = run.config.get("schedule")
    if not isinstance(config, dict):  # none, or written by hand
        return None
    if not str(config.get("class_path")).endswith(f".{OffDiagonalSchedule.__name__}"):
        return None
    try:
        schedule = OffDiagonalSchedule(**config["init_args"])
        schedule.weight(0.0), schedule.weight(1.0)
    except (KeyError, TypeError, ValueError):  # written by hand: unknown or missing keys
        return None
    return schedule.weight


def epoch_of(run: FinishedRun, step: float) -> float | None:
    """Return the epoch, counted from 1 with a fraction, in which a step lies; None when epochs are not known."""
    trainer, total = run.config.get("trainer") or {}, run.record.get("scheduled_steps")
    epochs, bound = trainer.get("max_epochs") or 0, trainer.get("max_steps") or -1
    return 1 + step * epochs / total if epochs > 0 and bound < 0 and total else None


class Leads(NamedTuple):
    """A run's lead over another in the validation composite, at the last evaluations while attracting and repelling.

    A lead that was there before cannot come from repulsion.
    """

    before: float
    after: float

    @property
    def change(self) -> float:
        """How far the lead grew; 0 where that is less than `NOTABLE_F1`."""
        change = self.after - self.before
        return change if abs(change) >= NOTABLE_F1 else 0.0


def leads_at(found: Dynamics, other: Dynamics) -> list[tuple[ScorePoint, float]]:
    """Return the evaluations at epochs at which both runs were evaluated, and the lead over the other run at each."""
    rival = {point.epoch: point.composite for point in other.evaluations}
    shared = [point for point in found.evaluations if point.epoch in rival]
    return [(point, point.composite - rival[point.epoch]) for point in shared]


def leads_over(found: Dynamics, other: Dynamics) -> Leads | None:
    """Return the last leads before and after the crossing; None without one on each side."""
    last = {point.phase: lead for point, lead in leads_at(found, other)}
    return Leads(last[ATTRACT], last[REPEL]) if {ATTRACT, REPEL} <= last.keys() else None


WEIGHT, SCORES, CORRELATION = "Off-diagonal weight", "Validation scores", "Logit correlation"
TERMS, SCALE = "Loss terms", "Logit scale"
MOST_POINTS = 400  # of the weight, which is known at every step; more only make the page large


def training_panels(run: FinishedRun) -> dict[str, Panel]:
    """Return the panels of a run's training for which something was logged, by name."""
    found = dynamics(run)
    chosen = np.linspace(0, len(found.steps) - 1, min(len(found.steps), MOST_POINTS)).astype(int)
    names = sorted(str(name) for name in run.history if str(name).startswith("train/loss/"))
    names.sort(key=lambda name: not name.endswith("/total"))

    def curve(label: str, name: str, colour: str, line: str = "o-") -> Curve:
        return Curve(label, *series(run, name), colour, line)

    scores = [curve("composite, selects" if found.selects else "composite", VAL_COMPOSITE, INK)]
    for benchmark, (colour, _) in zip(BENCHMARKS.values(), looks(*CYCLE), strict=False):
        own, teacher = (
            series(run, validation_name(model, benchmark.name, benchmark.headline))
            for model in (STUDENT, TEACHER)
        )
        reference = float(teacher[1][0]) / benchmark.scale if len(teacher[1]) else None
        label = benchmark.title.replace(", %", " (share)")
        scores.append(Curve(label, own[0], own[1] / benchmark.scale, colour, "o-", reference))
    scored = found.checkpoint
    panels = {
        WEIGHT: Panel(
            WEIGHT, "weight", [Curve("", found.steps[chosen], found.weights[chosen], INK)], is_weight=True
        ),
        SCORES: Panel(
            "Validation scores (dotted: teacher)", "score", scores, limits=(0, 1.02),
            selected=None if scored is None else (scored.step, scored.composite),
        ),
        CORRELATION: Panel(
            "Student's logits against the teacher's", "correlation",
            [
                curve("matched pairs", DIAGONAL_CORRELATION, BLUE),
                curve("mismatched pairs", OFF_DIAGONAL_CORRELATION, RED),
            ],
        ),
        TERMS: Panel(
            "Loss terms, unweighted", "loss",
            [curve(name.rsplit("/", 1)[1], name, *look)
             for name, look in zip(names, looks(INK, *CYCLE), strict=False)]
            + [curve("total, validation", VAL_LOSS, MUTED, "o--")],
        ),
        SCALE: Panel(SCALE, "scale", [curve("student", LOGIT_SCALE, GREEN, "-")]),
    }  # fmt: skip
    logged = {name: [one for one in panel.curves if len(one.steps)] for name, panel in panels.items()}
    return {name: replace(panels[name], curves=curves) for name, curves in logged.items() if curves}


def training_figure(run: FinishedRun, *names: str) -> Figure | None:
    """Draw some of the `training_panels` one below the other; None where nothing was logged."""
    panels = training_panels(run)
    shown = [panels[name] for name in names if name in panels]
    if not shown or run.history.empty:
        return None
    return curves_figure(shown, float(run.history["step"].max()), dynamics(run).crossing)


def comparison_figure(runs: Sequence[FinishedRun], titles: Sequence[str]) -> Figure | None:
    """Draw the composite score of several runs over steps; None unless two or more have one."""
    curves = []
    for run, title, (colour, line) in zip(runs, titles, looks(*CYCLE), strict=False):
        found = dynamics(run)
        steps, scores = series(run, VAL_COMPOSITE)
        repels = [point.phase == REPEL for point in found.evaluations]
        if len(steps):
            curves.append(Curve(title, steps, scores, colour, line, filled=repels, crossing=found.crossing))
    if len(curves) < 2:
        return None
    panel = Panel("Filled dots: repelling; dashed: weight crosses zero", "composite score", curves)
    return curves_figure([panel], max(float(curve.steps.max()) for curve in curves))
