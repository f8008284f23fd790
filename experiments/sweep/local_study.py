"""A sweep's memory on disk: its trials in a journal that outlives the runner."""

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
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from experiments.interpreter import without_secrets
from experiments.run_folder import OUTPUTS
from experiments.sweep.hyperband import HyperbandRule
from experiments.sweep.interruption import was_interrupted
from experiments.sweep.search_space import grid, search_space
from experiments.sweep.sweep_file import SweepFile, sweep_names
from experiments.sweep.trial_process import end_orphan

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
TRIALS = 20  # where neither COUNT nor run_cap says how many
RANDOM_TRIALS = 6  # before TPE models them; Optuna's own default is 10


def sweep_folder(name: str) -> Path:
    """Return where a local sweep is kept.

    Raises:
        ValueError: The name is none of a folder there; its trials' runs are named after it, too.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"SWEEP_NAME={name}: no name of a folder under {OUTPUTS / 'sweeps'}; it has letters, digits, "
            "'.', '_', '+' and '-' only, and begins with a letter or digit"
        )
    return OUTPUTS / "sweeps" / name


def journal_storage(folder: Path) -> JournalStorage:
    """Open the journal of a sweep's folder."""
    path = str(folder / "journal.log")
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def study_name(storage: JournalStorage) -> str | None:
    """Return the name of the study in a sweep's journal: its folder's first one. None when there is none yet."""
    return next(iter(optuna.get_all_study_names(storage)), None)


@contextmanager
def only_runner(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder; the system lets go of it when the runner dies, however it dies.

    Raises:
        ValueError: Another runner holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another runner works on this sweep; use JOBS=n for more at once"
            ) from None
        yield


@dataclass
class LocalStudy:
    """An Optuna study for a sweep file.

    Attributes:
        sweep: The sweep file.
        folder: Where journal and logs are kept.
        study: The study.
        space: Distribution of each parameter.
    """

    sweep: SweepFile
    folder: Path
    study: optuna.Study
    space: dict[str, BaseDistribution]

    @classmethod
    def open(cls, sweep: SweepFile, folder: Path, arguments: Sequence[str], seed: int) -> LocalStudy:
        """Make the study, or take up the one in `folder`.

        Raises:
            ValueError: The folder holds trials of other settings, or the sweep file names no metric.
        """
        if "metric" not in sweep.config:
            raise ValueError(
                f"{sweep.path}: metric: a sweep on this machine needs it, with name and goal, to rank its trials"
            )
        space = search_space(sweep)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        stop = sweep.config.get("early_terminate")
        storage = journal_storage(folder)
        study = optuna.create_study(
            study_name=study_name(storage) or folder.name,
            storage=storage,
            direction="maximize" if sweep.maximize else "minimize",
            pruner=HyperbandRule(stop, sweep.maximize) if stop else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        written = without_secrets(list(arguments))
        definition = json.dumps([sweep.config, written], sort_keys=True)
        if study.user_attrs.get("definition", definition) != definition:
            raise ValueError(
                f"{folder}: holds trials of other settings than {sweep.path} with these ARGS have now; start "
                f"another sweep with SWEEP_NAME=..., or go on with the old SWEEP={folder / 'sweep.yaml'} "
                f"SWEEP_NAME={folder.name}"
            )
        if "stamp" not in study.user_attrs:
            shutil.copyfile(sweep.path, folder / "sweep.yaml")
            study.set_user_attr("definition", definition)
            study.set_user_attr("arguments", written)
            study.set_user_attr("metric", sweep.metric)
            study.set_user_attr("parameters", list(space))
            study.set_user_attr("stamp", datetime.now().strftime("%Y%m%d-%H%M%S"))
        # A resumed sweep must not draw its first numbers again.
        study.sampler = _sampler(sweep.method, seed + len(study.get_trials(deepcopy=False)))
        opened = cls(sweep, folder, study, space)
        opened._requeue_interrupted()
        if sweep.method == "grid":
            for parameters in grid(space):
                study.enqueue_trial(parameters, skip_if_exists=True)
        return opened

    @property
    def group(self) -> str:
        """Name of the W&B group of the sweep's runs; no two sweeps share one."""
        return f"{self.study.study_name}-{self.study.user_attrs['stamp']}"

    def run_name(self, number: int) -> str:
        """Return the name of a trial's run."""
        return f"{self.group}-{number:03d}"

    def counted(self) -> int:
        """Return how many trials were started, those that were interrupted apart."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(t.state != TrialState.WAITING and not was_interrupted(t) for t in trials)

    def trained(self) -> int:
        """Return how many trials were trained, to their end or until they were stopped early."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def reached_target(self) -> bool:
        """Say whether any trial has once been as good as ``metric.target``."""
        trials = self.study.get_trials(deepcopy=False)
        return any(self.sweep.reached(value) for t in trials for value in t.intermediate_values.values())

    def limit(self, count: int | None) -> int:
        """Return how many trials the sweep shall have: `count`, else ``run_cap``, and at most a grid's cells."""
        wanted = count or self.sweep.config.get("run_cap")
        if self.sweep.method == "grid":
            cells = len(grid(self.space))
            return min(wanted or cells, cells)
        return int(wanted or TRIALS)

    def give_back(self, number: int) -> None:
        """Queue an interrupted trial's parameters again, and put the trial aside."""
        # In this order: a kill in between runs settings twice, which is better than never.
        self.study.enqueue_trial(self.study.get_trials(deepcopy=False)[number].params)
        self.study.tell(number, state=TrialState.FAIL)

    def _requeue_interrupted(self) -> None:
        """Give back what a killed runner left running."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "pid" in trial.user_attrs:
                end_orphan(int(trial.user_attrs["pid"]), self.run_name(trial.number))
            print(f"trial {trial.number} was interrupted: its settings run again")
            self.give_back(trial.number)


def _sampler(method: str, seed: int) -> BaseSampler:
    if method == "bayes":
        # The constant liar keeps parallel trials apart: a running one counts as a bad one.
        return TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS, constant_liar=True)
    return RandomSampler(seed=seed)


def load(folder: Path) -> optuna.Study:
    """Open the study of a sweep that was run.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The sweep was ended before its first trial.
    """
    if not (folder / "journal.log").is_file():
        raise FileNotFoundError(
            f"{folder}/journal.log: no local trials of this sweep; run {_making(folder.name)} first "
            "(a sweep that ran on W&B is reported there)"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = journal_storage(folder)
    name = study_name(storage)
    if name is None:
        raise ValueError(f"{folder}: no trials yet; run {_making(folder.name)} first")
    return optuna.load_study(study_name=name, storage=storage)


def _making(name: str) -> str:
    """Return the command that makes a sweep of this name, which is a sweep file's or one that was given to it."""
    return f"make sweep SWEEP={name}" if name in sweep_names() else f"make sweep SWEEP=... SWEEP_NAME={name}"
