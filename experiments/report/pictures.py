"""Draw a run's training curves from its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from experiments.report.read_run import FinishedRun
from experiments.report.training import REPEL, dynamics, series
from figures.curves import Curve, Panel, curves_figure
from figures.style import BLUE, CYCLE, GREEN, INK, MUTED, RED, looks
from metrics.benchmarks import BENCHMARKS
from metrics.names import (
    DIAGONAL_CORRELATION,
    LOGIT_SCALE,
    OFF_DIAGONAL_CORRELATION,
    STUDENT,
    TEACHER,
    VAL_COMPOSITE,
    VAL_LOSS,
    validation_name,
)

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

    scores = [curve("composite, selects", VAL_COMPOSITE, INK)]
    for benchmark, (colour, _) in zip(BENCHMARKS.values(), looks(*CYCLE), strict=False):
        own, teacher = (
            series(run, validation_name(model, benchmark.name, benchmark.headline))
            for model in (STUDENT, TEACHER)
        )
        reference = float(teacher[1][0]) / benchmark.scale if len(teacher[1]) else None
        label = benchmark.title.replace(", %", " (share)")
        scores.append(Curve(label, own[0], own[1] / benchmark.scale, colour, "o-", reference))
    best = found.best
    panels = {
        WEIGHT: Panel(
            WEIGHT, "weight", [Curve("", found.steps[chosen], found.weights[chosen], INK)], is_weight=True
        ),
        SCORES: Panel(
            "Scores on validation patients (dotted: teacher)", "score", scores, limits=(0, 1.02),
            selected=None if best is None else (best.step, best.composite),
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
