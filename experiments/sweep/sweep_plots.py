"""The plots of a local sweep: parallel coordinates, parameter importance, and the best so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#9a9a9a"  # told apart by colour-blind readers
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
ENOUGH_FOR_IMPORTANCE = 5  # finished trials; fewer say nothing


def shown(value: Any) -> str:
    """Return a parameter's value as tables and axes show it: short numbers, files by their name."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return Path(text).stem if text.endswith(".yaml") else text


class Scale:
    """Places a parameter's values between 0 and 1 on an upright axis, as they were sampled.

    Args:
        distribution: How the parameter was sampled; None for a plain number such as the metric.
        values: The values to place.
    """

    def __init__(self, distribution: BaseDistribution | None, values: Sequence[Any]) -> None:
        self.choices = (
            list(distribution.choices) if isinstance(distribution, CategoricalDistribution) else None
        )
        self.log = bool(getattr(distribution, "log", False))
        if self.choices is None:
            numbers = [self._number(value) for value in values]
            self.low, self.high = min(numbers), max(numbers)

    def _number(self, value: float) -> float:
        return math.log(value) if self.log else float(value)

    def place(self, value: Any) -> float:
        """Return the height of a value."""
        if self.choices is not None:
            return self.choices.index(value) / (len(self.choices) - 1) if len(self.choices) > 1 else 0.5
        span = self.high - self.low
        return (self._number(value) - self.low) / span if span > 0 else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Return (height, label) of the ticks."""
        if self.choices is not None:
            return [(self.place(choice), shown(choice)) for choice in self.choices]
        heights = (0.0, 0.25, 0.5, 0.75, 1.0) if self.high > self.low else (0.5,)
        numbers = [self.low + height * (self.high - self.low) for height in heights]
        return [(h, f"{math.exp(n) if self.log else n:.3g}") for h, n in zip(heights, numbers, strict=True)]


def plot_parallel(
    trials: Sequence[FrozenTrial], names: dict[str, str], metric: str, maximize: bool
) -> Figure:
    """Draw each finished trial as a line through its settings, the best in front and bold.

    Args:
        trials: Finished trials, best first.
        names: Short name of each parameter, in the order to draw.
        metric: Name of the metric.
        maximize: Whether more is better.
    """
    spaces = {name: trials[0].distributions[name] for name in names}
    scales = [Scale(space, [trial.params[name] for trial in trials]) for name, space in spaces.items()]
    scales.append(Scale(None, [trial.value for trial in trials]))
    figure, axis = plt.subplots(figsize=(2.2 * len(scales) + 1.5, 4.8), layout="constrained")
    colours = plt.get_cmap("viridis" if maximize else "viridis_r")
    for rank, trial in reversed(list(enumerate(trials))):
        values = [*(trial.params[name] for name in names), trial.value]
        heights = [scale.place(value) for scale, value in zip(scales, values, strict=True)]
        line: dict[str, Any] = {"color": colours(heights[-1] * 0.9), "linewidth": 1.2, "alpha": 0.75}
        if rank == 0:
            line = {"color": ORANGE, "linewidth": 3.0, "alpha": 1.0}
        axis.plot(range(len(scales)), heights, label="best" if rank == 0 else None, **line)
    for position, scale in enumerate(scales):
        axis.axvline(position, color="black", linewidth=0.8)
        for height, label in scale.ticks():
            box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}
            axis.text(position + 0.03, height, label, fontsize=9, va="center", bbox=box)
    axis.set_xticks(range(len(scales)), [*names.values(), metric])
    axis.set(
        xlim=(-0.05, len(scales) - 0.6), yticks=[], title=f"{len(trials)} finished trials; bold: the best"
    )
    axis.spines[["left", "bottom"]].set_visible(False)
    return figure


def plot_history(trials: Sequence[FrozenTrial], metric: str, maximize: bool) -> Figure:
    """Draw every trial's value in the order of the trials, and the best finished one so far.

    Args:
        trials: Finished and stopped trials, in order.
        metric: Name of the metric.
        maximize: Whether more is better.
    """
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    stopped = [trial for trial in trials if trial.state == TrialState.PRUNED and trial.value is not None]
    _points(axis, finished, "o", BLUE, "finished")
    _points(axis, stopped, "x", GREY, "stopped early (its last value)")
    best = (np.maximum if maximize else np.minimum).accumulate(_values(finished))
    axis.step(
        [t.number for t in finished], best, where="post", color=ORANGE, linewidth=2, label="best so far"
    )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="trial", ylabel=metric)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    return figure


def _points(axis: Axes, trials: Sequence[FrozenTrial], marker: str, colour: str, label: str) -> None:
    if trials:
        numbers = [trial.number for trial in trials]
        axis.scatter(numbers, _values(trials), marker=marker, color=colour, label=label, zorder=3)


def plot_importance(importance: dict[str, float], names: dict[str, str], metric: str, count: int) -> Figure:
    """Draw each parameter's share of the variance of the metric, the greatest on top."""
    figure, axis = plt.subplots(figsize=(8, 0.5 * len(importance) + 1.4), layout="constrained")
    order = sorted(importance, key=lambda name: importance[name])
    bars = axis.barh([names[name] for name in order], [importance[name] for name in order], color=BLUE)
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.set(xlim=(0, 1.08), xlabel=f"share of the variance of {metric} (fANOVA, {count} finished trials)")
    return figure


def write_plots(
    study: optuna.Study, finished: Sequence[FrozenTrial], names: dict[str, str], folder: Path
) -> list[str]:
    """Write the plots that the trials allow into the sweep's folder.

    Args:
        study: The study.
        finished: Its finished trials, best first.
        names: Short name of each parameter.
        folder: Where to write.

    Returns:
        One line for each plot: its path, or why there is none.
    """
    metric, maximize = study.user_attrs["metric"], study.direction == StudyDirection.MAXIMIZE
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    varied = [name for name in names if len({str(trial.params[name]) for trial in finished}) > 1]
    with plt.rc_context(STYLE):  # type: ignore[arg-type]
        notes = [
            _save(plot_parallel(finished, names, metric, maximize), folder / "parallel.png"),
            _save(plot_history(ended, metric, maximize), folder / "best-so-far.png"),
        ]
        if len(finished) < ENOUGH_FOR_IMPORTANCE or not varied or _constant(finished):
            return [*notes, f"importance: needs {ENOUGH_FOR_IMPORTANCE} finished trials whose results differ"]
        importance = get_param_importances(study, params=varied, evaluator=FanovaImportanceEvaluator(seed=0))
        figure = plot_importance(importance, names, metric, len(finished))
        return [*notes, _save(figure, folder / "importance.png")]


def _constant(trials: Sequence[FrozenTrial]) -> bool:
    return bool(np.ptp(_values(trials)) == 0)


def _values(trials: Sequence[FrozenTrial]) -> NDArray[np.float64]:
    return np.array([trial.value for trial in trials], dtype=np.float64)


def _save(figure: Figure, path: Path) -> str:
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return str(path)
