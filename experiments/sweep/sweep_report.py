"""Report of a local sweep: its trials best first, Optuna's plots, and the command of the best trial."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import optuna
import pandas as pd
from matplotlib.axes import Axes
from optuna.importance import FanovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna.visualization.matplotlib import (
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_param_importances,
)

from experiments.config import CAUTION
from experiments.sweep.local_study import REASON, load, was_interrupted
from experiments.sweep.sweep_file import as_typed
from figures.style import DPI
from models.files import atomic, write_text
from models.messages import count

ORDER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
SHOWN = 30  # rows of the printed table; trials.csv has all
ENOUGH_FOR_IMPORTANCE = 5  # finished trials


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials of a study: finished ones best first, then stopped, failed and running ones."""
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    trials = [t for t in study.get_trials(deepcopy=False, states=ORDER) if not was_interrupted(t)]
    return sorted(trials, key=lambda t: (ORDER.index(t.state), sign * (t.value or 0.0), t.number))


def trial_table(trials: Sequence[FrozenTrial], metric: str) -> pd.DataFrame:
    """Return one row per trial, the columns of trials.csv; its command can be pasted into a shell."""
    return pd.DataFrame(
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            metric: trial.value,
            **trial.params,
            "evaluations": len(trial.intermediate_values),
            "seconds": trial.user_attrs.get("seconds"),
            "run": trial.user_attrs.get("run"),
            "reason": trial.user_attrs.get(REASON),
            "command": as_typed(shlex.split(trial.user_attrs.get("command", ""))),
        }
        for trial in trials
    )


def compared(study: optuna.Study) -> tuple[optuna.Study, int]:
    """Return the finished and stopped trials with their score after the evaluations that all of them have.

    Optuna's plots leave stopped trials out: the settings that matter most would seem not to matter.

    Returns:
        The study, and that number of evaluations.
    """
    trials = [t for t in ranked(study) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    number = min(len(trial.intermediate_values) for trial in trials)
    shared = optuna.create_study(direction=study.direction)
    for trial in sorted(trials, key=lambda one: one.number):
        value = list(trial.intermediate_values.values())[number - 1]
        shared.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=value))
    return shared, number


def write_plots(study: optuna.Study, folder: Path) -> None:
    """Write Optuna's plots of a study with a finished trial, and print their paths, or why there is none."""
    metric = study.user_attrs["metric"]
    shared, number = compared(study)
    trials, name_then = shared.get_trials(deepcopy=False), f"{metric} after {count(number, 'evaluation')}"
    plots: dict[str, Callable[[], object]] = {
        "parallel": lambda: _named_axes(
            plot_parallel_coordinate(shared, target_name=name_then), metric, trials
        ),
        "best-so-far": lambda: plot_optimization_history(study, target_name=metric),
        "importance": lambda: plot_param_importances(
            shared, target_name=name_then, evaluator=FanovaImportanceEvaluator(seed=0)
        ),
    }
    varied = any(len({str(t.params[name]) for t in trials}) > 1 for name in trials[0].params)
    if len(trials) < ENOUGH_FOR_IMPORTANCE or not varied or len({t.value for t in trials}) == 1:
        del plots["importance"]
        print(f"importance: needs {ENOUGH_FOR_IMPORTANCE} trials whose results differ")
    for name, plot in plots.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental; a setting that no finished trial varies
            plot()
        with atomic(folder / f"{name}.png") as partial:
            plt.savefig(partial, dpi=DPI, bbox_inches="tight")
        plt.close()
        print(folder / f"{name}.png")


def _named_axes(axes: Axes, metric: str, trials: Sequence[FrozenTrial]) -> None:
    """Name every axis by its setting's last word: Optuna cuts long names, after which they are alike."""
    names = sorted({name for trial in trials for name in trial.params})
    short = [name.rsplit(".", 1)[-1] for name in names]
    axes.set_xticklabels([metric, *(short if len(set(short)) == len(names) else names)])
    for one in (one for one in plt.gcf().axes if one.get_yscale() == "log"):  # 6 instead of 6 x 10^0
        one.yaxis.set_major_formatter("{x:g}")
        one.yaxis.set_minor_formatter("{x:g}")
    plt.gcf().set_size_inches(10, 5)


def report(folder: Path) -> None:
    """Print the results of a sweep, and write trials.csv and its plots beside the journal."""
    study = load(folder)
    trials = ranked(study)
    table = trial_table(trials, study.user_attrs["metric"])
    write_text(folder / "trials.csv", table.to_csv(index=False))
    print(f"{count(len(trials), 'trial')}, best first")
    shown = table.drop(columns=["run", "command", "seconds"], errors="ignore").head(SHOWN).replace({None: ""})
    print(shown.to_string(index=False, float_format="{:.4g}".format, na_rep=""))
    if len(trials) > SHOWN:
        print(f"the other {len(trials) - SHOWN}: {folder / 'trials.csv'}")
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        print("no trial has finished: nothing to plot yet")
        return
    best = table.iloc[0]
    metric = study.user_attrs["metric"]
    print(f"\nbest: trial {best['trial']}, {metric} {best[metric]:.4f}; the same again:\n{best['command']}\n")
    if "--quick=true" in str(best["command"]):
        print(f"warning: {CAUTION}")
    write_plots(study, folder)
