"""Optuna study of a local sweep, in a journal that outlives its runner."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from experiments.process import without_secrets
from experiments.runs.run_folder import OUTPUTS
from experiments.sweep.local_settings import EarlyTerminate, LocalSettings, grid, local_settings
from experiments.sweep.sweep_file import SweepFile, sweep_names
from experiments.sweep.trial_process import end_orphan

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
TRIALS = 20  # without COUNT and run_cap
RANDOM_TRIALS = 6  # before TPE models them; Optuna's default is 10
REASON = "reason"  # attribute of a trial that failed by itself


def was_interrupted(trial: FrozenTrial) -> bool:
    """Return whether a trial ended with its runner; one that failed by itself has a reason."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


def pruner(stop: EarlyTerminate | None) -> BasePruner:
    """Return Optuna's asynchronous successive halving: one bracket of Hyperband, as on W&B."""
    return NopPruner() if stop is None else SuccessiveHalvingPruner(stop.first, stop.eta)


def sweep_folder(name: str) -> Path:
    """Return the folder of a local sweep.

    Raises:
        ValueError: The name cannot be that of a folder; the runs of its trials are named after it, too.
    """
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


def load(folder: Path) -> optuna.Study:
    """Open the study of a finished or interrupted sweep.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The sweep was ended before its first trial.
    """
    name = folder.name
    make = f"make sweep SWEEP={name}" if name in sweep_names() else f"make sweep SWEEP=... SWEEP_NAME={name}"
    if not (folder / "journal.log").is_file():
        raise FileNotFoundError(
            f"{folder}/journal.log: no local trials of this sweep; run {make} first (a W&B sweep is reported there)"
        )
    storage, study = _storage(folder)
    if study is None:
        raise ValueError(f"{folder}: no trials yet; run {make} first")
    return optuna.load_study(study_name=study, storage=storage)


@contextmanager
def only_runner(folder: Path) -> Iterator[None]:
    """Lock a sweep's folder; the system releases the lock when the runner dies.

    Raises:
        ValueError: Another runner holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another runner works on this sweep; JOBS=n runs trials in parallel"
            ) from None
        yield


@dataclass
class LocalStudy:
    """An Optuna study of a sweep file.

    Attributes:
        sweep: The sweep file.
        settings: Its settings on this machine.
        folder: Folder of journal and logs.
        study: The study.
        space: Distribution of each parameter.
    """

    sweep: SweepFile
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
        storage, name = _storage(folder)
        study = optuna.create_study(
            study_name=name or folder.name,
            storage=storage,
            direction="maximize" if settings.maximize else "minimize",
            pruner=pruner(settings.early_terminate),
            load_if_exists=True,
        )
        written = without_secrets(list(arguments))
        definition = json.dumps([sweep.config, written], sort_keys=True)
        if study.user_attrs.get("definition", definition) != definition:
            raise ValueError(
                f"{folder}: holds trials of other settings than {sweep.path} with these ARGS; start another sweep with "
                f"SWEEP_NAME=..., or resume the old one with SWEEP={folder / 'sweep.yaml'} SWEEP_NAME={folder.name}"
            )
        if "stamp" not in study.user_attrs:
            shutil.copyfile(sweep.path, folder / "sweep.yaml")
            study.set_user_attr("definition", definition)
            study.set_user_attr("metric", settings.metric.name)
            study.set_user_attr("stamp", datetime.now().strftime("%Y%m%d-%H%M%S"))
        seed += len(study.get_trials(deepcopy=False))  # a resumed sweep must not repeat its first draws
        if settings.method == "bayes":
            # The constant liar keeps parallel trials apart: a running one counts as a bad one.
            study.sampler = TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS, constant_liar=True)
        else:
            study.sampler = RandomSampler(seed=seed)
        opened = cls(sweep, settings, folder, study, space)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # of a killed runner
            if "pid" in trial.user_attrs:
                end_orphan(int(trial.user_attrs["pid"]), opened.run_name(trial.number))
            print(f"trial {trial.number} was interrupted: its settings run again")
            opened.give_back(trial.number)
        for parameters in grid(space) if settings.method == "grid" else ():
            study.enqueue_trial(parameters, skip_if_exists=True)
        return opened

    @property
    def group(self) -> str:
        """Name of the W&B group of the sweep's runs, unique to the sweep."""
        return f"{self.study.study_name}-{self.study.user_attrs['stamp']}"

    def run_name(self, number: int) -> str:
        """Return the name of a trial's run."""
        return f"{self.group}-{number:03d}"

    def counted(self) -> int:
        """Return the number of started trials without interrupted ones."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(t.state != TrialState.WAITING and not was_interrupted(t) for t in trials)

    def trained(self) -> int:
        """Return the number of trials that ran to their end or were stopped early."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def reached_target(self) -> bool:
        """Return whether any value of any trial was as good as ``metric.target``."""
        trials = self.study.get_trials(deepcopy=False)
        return any(self.settings.reached(value) for t in trials for value in t.intermediate_values.values())

    def limit(self, count: int | None) -> int:
        """Return the number of trials to run: `count`, else ``run_cap``; at most the cells of a grid."""
        wanted = count or self.settings.run_cap
        if self.settings.method == "grid":
            cells = len(grid(self.space))
            return min(wanted or cells, cells)
        return wanted or TRIALS

    def give_back(self, number: int) -> None:
        """Queue the parameters of an interrupted trial again and mark the trial as failed."""
        # In this order: a kill in between runs settings twice rather than never.
        self.study.enqueue_trial(self.study.get_trials(deepcopy=False)[number].params)
        self.study.tell(number, state=TrialState.FAIL)
