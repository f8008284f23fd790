"""What a local sweep found: its trials best first, three plots, and the command of the best."""

from __future__ import annotations

import csv
import shlex
import sys
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from experiments.sweep.interruption import REASON, was_interrupted
from experiments.sweep.local_study import load
from experiments.sweep.sweep_plots import shown, write_plots
from experiments.sweep.trial_command import as_typed

PIPED_WIDTH = 160  # columns, where there is no terminal to ask
SHOWN = 30  # rows of the printed table; trials.csv has all


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Return a study's trials: finished ones best first, then stopped, failed and running ones."""
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    order = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]

    def key(trial: FrozenTrial) -> tuple[int, float, int]:
        return (
            order.index(trial.state),
            sign * (trial.value if trial.value is not None else 0.0),
            trial.number,
        )

    trials = study.get_trials(deepcopy=False, states=order)
    return sorted((trial for trial in trials if not was_interrupted(trial)), key=key)


def short_names(names: list[str]) -> dict[str, str]:
    """Return the last word of each dotted name where it tells the names apart, else the whole name."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: word if last.count(word) == 1 else name for name, word in zip(names, last, strict=True)}


def row(trial: FrozenTrial, metric: str) -> dict[str, Any]:
    """Return a trial as a row of trials.csv."""
    attributes = trial.user_attrs
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        metric: trial.value,
        **trial.params,
        "evaluations": len(trial.intermediate_values),
        "seconds": attributes.get("seconds"),
        "run": attributes.get("run"),
        "reason": attributes.get(REASON),
        "command": typed(trial),
    }


def typed(trial: FrozenTrial) -> str:
    """Return a trial's command line as a person pastes it; the journal keeps it as it was started."""
    return as_typed(shlex.split(trial.user_attrs.get("command", "")))


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Write trials.csv whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def print_table(trials: list[FrozenTrial], metric: str, names: dict[str, str], console: Console) -> None:
    """Print the trials, best first."""
    table = Table(title=f"{len(trials)} trials, best first")
    for column in ("trial", metric, *names.values()):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for trial in trials[:SHOWN]:
        value = "-" if trial.value is None else f"{trial.value:.4f}"
        settings = [shown(trial.params.get(name)) for name in names]
        table.add_row(str(trial.number), value, *settings, _note(trial))
    console.print(table)


def _note(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return ""
    if trial.state == TrialState.PRUNED:
        return f"stopped early at {len(trial.intermediate_values)}"
    return str(trial.user_attrs.get(REASON, trial.state.name.lower()))


def report(folder: Path) -> None:
    """Print a sweep's results and write trials.csv and its plots beside the journal.

    Args:
        folder: The sweep's folder.

    Raises:
        FileNotFoundError: There is no such sweep.
        ValueError: It has no trials yet.
    """
    study = load(folder)
    trials = ranked(study)
    if not trials:
        raise ValueError(f"{folder}: no trials yet")
    metric = study.user_attrs["metric"]
    names = short_names(study.user_attrs["parameters"])
    rows = [row(trial, metric) for trial in trials]
    write_table(rows, folder / "trials.csv")
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    print_table(trials, metric, names, console)
    if len(trials) > SHOWN:
        console.print(f"the other {len(trials) - SHOWN}: {folder / 'trials.csv'}", highlight=False)
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not finished:
        console.print("no trial has finished: nothing to plot yet")
        return
    for note in write_plots(study, finished, names, folder):
        console.print(note, highlight=False, soft_wrap=True)
    best = finished[0]
    console.print(f"\nbest: trial {best.number}, {metric} {best.value:.4f}; the same again:", highlight=False)
    print(typed(best))
