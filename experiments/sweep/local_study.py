"""Optuna study of a local sweep, in a journal that outlives its runner."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from experiments.process import without_secrets
from experiments.runs.run_folder import OUTPUTS
from experiments.sweep.local_settings import LocalSettings, grid, local_settings
from experiments.sweep.sweep_file import SweepFile, sweep_names
from experiments.sweep.trial_process import end_orphan

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
TRIALS = 20  # without COUNT and run_cap
RANDOM_TRIALS = 6  # before TPE models them; Optuna's default is 10
QUEUED = "fixed_params"  # Optuna's attribute of a trial that was queued: its parameters
REASON = "reason"  # attribute of a trial that failed by itself


def was_interrupted(trial: FrozenTrial) -> bool:
    """Return whether a trial ended with its runner; one that failed by itself has a reason."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


def sweep_folder(name: str) -> Path:
    """Return the folder of a local sweep."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"SWEEP_NAME={name}: not a folder name under {OUTPUTS / 'sweeps'}; use letters, digits, '.', '_', '+' "
            "and '-' only, with a letter or digit first"
        )
    return OUTPUTS / "sweeps" / name


def _storage(folder: Path) -> tuple[JournalStorage, str | None]:
    """Open the journal in a sweep's folder; return it with the name of its study, None without one."""
    path = str(folder / "journal.log")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    return storage, next(iter(optuna.get_all_study_names(storage)), None)


def _mend(journal: Path) -> None:
    """Remove what a runner leaves that is killed in the act of writing; only for its successor, which has its lock.

    Optuna waits 30 s for a lock that nobody holds, and reads no journal that goes on behind half a line.
    """
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.is_file():
        os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)


def load(folder: Path) -> optuna.Study:
    """Open the study of a finished or interrupted sweep."""
    if (folder / "journal.log").is_file():
        storage, study = _storage(folder)
        if study is not None:
            return optuna.load_study(study_name=study, storage=storage)
    name = folder.name if folder.name in sweep_names() else f"... SWEEP_NAME={folder.name}"
    raise FileNotFoundError(
        f"{folder}/journal.log: no local trials of this sweep; run make sweep SWEEP={name} first (a W&B sweep is "
        "reported there)"
    )


@dataclass
class LocalStudy:
    """An Optuna study of a sweep file, and the distribution of each parameter."""

    settings: LocalSettings
    folder: Path
    study: optuna.Study
    space: dict[str, BaseDistribution]

    @classmethod
    def open(cls, sweep: SweepFile, folder: Path, arguments: Sequence[str], seed: int) -> LocalStudy:
        """Create the study, or resume the one in `folder`.

        Raises:
            ValueError: The folder holds trials of other settings, or the sweep file cannot be used here.
        """
        settings, space = local_settings(sweep)
        _mend(folder / "journal.log")
        storage, name = _storage(folder)
        study = optuna.create_study(
            study_name=name or f"{folder.name}-{datetime.now():%Y%m%d-%H%M%S}",
            storage=storage,
            direction=settings.metric.goal,
            pruner=settings.pruner(),
            load_if_exists=True,
        )
        definition = json.dumps([sweep.config, without_secrets(list(arguments))], sort_keys=True, default=str)
        if study.user_attrs.get("definition", definition) != definition:
            raise ValueError(
                f"{folder}: holds trials of other settings than {sweep.path} with these ARGS; start another sweep with "
                f"SWEEP_NAME=..., or resume the old one with SWEEP={folder / 'sweep.yaml'} SWEEP_NAME={folder.name}"
            )
        if "metric" not in study.user_attrs:
            shutil.copyfile(sweep.path, folder / "sweep.yaml")
            study.set_user_attr("definition", definition)
            study.set_user_attr("metric", settings.metric.name)
        seed += len(study.get_trials(deepcopy=False))  # a resumed sweep must not repeat its first draws
        if settings.method == "bayes":
            # The constant liar keeps parallel trials apart: a running one counts as a bad one.
            study.sampler = TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS, constant_liar=True)
        else:
            study.sampler = RandomSampler(seed=seed)
        opened = cls(settings, folder, study, space)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # of a killed runner
            end_orphan(opened.run_name(trial.number))
            print(f"trial {trial.number} was interrupted: its settings run again")
            opened.requeue(trial.number)
        for parameters in grid(space) if settings.method == "grid" else ():
            study.enqueue_trial(parameters, skip_if_exists=True)
        return opened

    def run_name(self, number: int) -> str:
        """Return the name of a trial's run; the study's name, unique to the sweep, is its W&B group."""
        return f"{self.study.study_name}-{number:03d}"

    def counted(self) -> int:
        """Return the number of started trials without interrupted ones."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(t.state != TrialState.WAITING and not was_interrupted(t) for t in trials)

    def trained(self) -> int:
        """Return the number of trials that ran to their end or were stopped early."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def reached_target(self) -> bool:
        """Return whether any value of any trial was as good as ``metric.target``; False without one."""
        target, sign = self.settings.metric.target, 1 if self.settings.metric.goal == "maximize" else -1
        trials = self.study.get_trials(deepcopy=False)
        values = [value for trial in trials for value in trial.intermediate_values.values()]
        return target is not None and any(sign * value >= sign * target for value in values)

    def limit(self, count: int | None) -> int:
        """Return the number of trials to run: `count`, else ``run_cap``; at most the cells of a grid."""
        wanted = count or self.settings.run_cap
        if self.settings.method == "grid":
            cells = len(grid(self.space))
            return min(wanted or cells, cells)
        return wanted or TRIALS

    def requeue(self, number: int) -> None:
        """Queue the parameters of an interrupted trial again and mark the trial as failed."""
        trials = self.study.get_trials(deepcopy=False)
        # Killed as it was taken from the queue, it lacks parameters of its own.
        parameters = {**trials[number].system_attrs.get(QUEUED, {}), **trials[number].params}
        waiting = [trial.system_attrs[QUEUED] for trial in trials if trial.state == TrialState.WAITING]
        # In this order: after a kill in between they are queued already.
        if parameters not in waiting:
            self.study.enqueue_trial(parameters)
        self.study.tell(number, state=TrialState.FAIL)
