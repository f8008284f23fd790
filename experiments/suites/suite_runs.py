"""Run the experiments of a suite over several seeds, each in its own process, resuming where they stopped."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from experiments.config import TEACHER_OPTION, resolve
from experiments.paper import STUDENTS, SUITES
from experiments.process import (
    STOPPED,
    child_environment,
    exit_status,
    joined,
    run_children,
    terminable,
    without_secrets,
)  # fmt: skip
from experiments.recipe_files import READING, experiment_file, preset_file, student_file
from experiments.report.read_run import read_file
from experiments.runs.input_digests import content_digest, content_digests, corpus_digests, shard_corpora
from experiments.runs.run_folder import OUTPUTS, RUN_VARIABLE
from experiments.runs.teachers import KEPT, preset_behind, preset_teacher
from models.files import write_json

PREFIX = "reproduce-"
REQUEST = "request.json"
OUTPUT = "output.txt"
CAPACITY = "capacity"
SIZED = ("phantom", "hc18")  # presets with the student and teacher that `STUDENTS` relate to
TOWER_OPTIONS = ("--teacher", "--student", "--model.teacher", "--model.student")
# Set by the suite: experiment, folder and seed of a run, and that it is complete and scored.
OWN_OPTIONS = (
    "--experiment", "--run", "--ckpt_path", "--seed_everything", "--data.seed", "--data.init_args.seed",
    "--score_test_patients", "--trainer.fast_dev_run", "--quick",
)  # fmt: skip
# Where data lie and how fast a run goes; corpora are identified by digests.
WITHOUT_EFFECT = re.compile(
    rf"--(data\.(init_args\.)?({'|'.join(READING)})|biometry\.cache|trainer\.enable_progress_bar)="
)
FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"


@dataclass(frozen=True)
class SuiteRun:
    """One training of a suite: experiment, data preset, seed and other arguments of ``sonodistill train``.

    The seed is that of weights, order and augmentation; all seeds share one split of the patients. `student` is a file
    of ``recipes/students`` (see `student_file`) that replaces the preset's student.
    """

    experiment: str
    preset: str
    seed: int
    arguments: tuple[str, ...] = ()
    student: str = ""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        student = self.student and f"-{self.student}"
        return OUTPUTS / self.experiment / f"{PREFIX}{self.preset}{student}-s{self.seed}"

    def command(self) -> list[str]:
        """Return the command that starts the run, or resumes it from its last checkpoint."""
        command = [sys.executable, "-m", "experiments", "train", self.experiment, self.preset]
        command += [f"--config={student_file(self.student)}"] if self.student else []
        # The suite's own options come last, so that a --config among the arguments cannot override them.
        command += [*self.arguments, f"--seed_everything={self.seed}", f"--data.init_args.seed={self.seed}"]
        command += [f"--experiment={self.experiment}", f"--run={self.folder.name}"]
        command += ["--score_test_patients=true", "--quick=false"]
        last = self.folder / "checkpoints" / "last.ckpt"
        return [*command, f"--ckpt_path={last}"] if last.is_file() else command

    def claim(self, digests: Mapping[str, str], trained_on: Mapping[str, str]) -> None:
        """Record the request of the run in its folder, unless it holds the same one (see `refuse_another`)."""
        if not self._started():
            request = {"arguments": without_secrets(list(self.arguments)), "digests": digests}
            write_json(self.folder / REQUEST, request | {"trained_on": trained_on, "student": self.student})

    def _started(self) -> bool:
        """Return whether the folder holds the request of a run that has a checkpoint or results."""
        begun = has_results(self.folder) or any(self.folder.glob("checkpoints/*.ckpt"))
        return begun and (self.folder / REQUEST).is_file()

    def refuse_another(self, digests: Mapping[str, str]) -> None:
        """Compare the run with the one that its folder holds, if any.

        `digests` are those of the weights, prompts and data that the arguments name.

        Raises:
            ValueError: The folder holds a run with other arguments, weights, prompts or data.
        """
        if not self._started():
            return
        before = read_object(self.folder / REQUEST)
        if effective(before["arguments"], before["digests"]) != effective(self.arguments, digests):
            others = " ".join(before["arguments"]) or "none"
            raise ValueError(f"{self.folder} holds a run with other arguments ({others}); move it away")
        changed = [
            f"{name} (digest {before['digests'].get(name)}, now {digests.get(name)})"
            for name in {**before["digests"], **digests}
            if digests.get(name) != before["digests"].get(name)
        ]
        if changed:
            raise ValueError(
                f"{self.folder} holds a run with other contents of {', '.join(changed)}; restore the former files "
                "or move the folder away"
            )


def effective(arguments: Sequence[str], digests: Mapping[str, str]) -> list[str]:
    """Return the arguments that change a result, without secrets; of those that `digests` identify, the names."""
    named = [(argument.partition("=")[0], argument) for argument in without_secrets(list(arguments))]
    return [name if name in digests else text for name, text in named if not WITHOUT_EFFECT.match(text)]


def has_results(folder: Path) -> bool:
    """Return whether a run's folder holds results of a complete run; those of a quick run do not count."""
    path = folder / "results.json"
    if not path.is_file():
        return False
    return not read_object(path).get("run", {}).get("quick", False)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run's folder; a damaged one is a ValueError."""
    content: dict[str, Any] = read_file(path, json.loads, "move the folder away and run it again")
    return content


def kept_teacher_digest(config: Namespace) -> dict[str, str]:
    """Return ``--teacher`` -> digest of a teacher kept by ``EXP=teacher``; {} for one that is shipped or named."""
    preset = preset_behind(config.model.get("teacher"))
    path = KEPT if preset is None else preset_teacher(preset)
    return {TEACHER_OPTION: content_digest(path)} if path.is_file() and path.parent == KEPT else {}


def execute(runs: Sequence[SuiteRun], jobs: int = 1) -> list[str]:
    """Train and test each of up to `jobs` runs in a child process: `FINISHED`, `FAILED` or `INTERRUPTED` of each."""
    environment = {key: value for key, value in child_environment(jobs).items() if key != RUN_VARIABLE}
    outputs = [run.folder / OUTPUT for run in runs] if jobs > 1 else []
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
    states = []
    for run, status in zip(
        runs, run_children([run.command() for run in runs], environment, outputs), strict=True
    ):
        # A signal that the child alone was sent: 130 or 143, or its number where it came before the front door.
        interrupted = status in (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
        states.append(FINISHED if has_results(run.folder) else INTERRUPTED if interrupted else FAILED)
    return states


def execute_all(runs: Sequence[SuiteRun], jobs: int = 1) -> int:
    """Execute every unfinished run, and print the state of all; a failed run does not stop the others.

    Args:
        runs: The runs.
        jobs: Number of runs at a time, which share the cores. With several, what a run prints goes to `OUTPUT` in its
            folder.

    Returns:
        0 when every run is finished, 1 when one is not, 130 or 143 after an interruption.
    """
    states = dict.fromkeys(runs, FINISHED)
    labels = {}
    for number, run in enumerate(runs, start=1):
        student = run.student and f"student {run.student}, "
        label = f"[{number}/{len(runs)}] {run.experiment}, {run.preset}, {student}seed {run.seed}"
        if has_results(run.folder):
            print(f"{label}: finished before, skipped", flush=True)
        else:
            labels[run] = label
    left = [*labels]
    try:
        with terminable():
            for start in range(0, len(left), jobs):
                some = left[start : start + jobs]
                for run in some:
                    print(f"{labels[run]}: {run.folder / OUTPUT if jobs > 1 else run.folder}", flush=True)
                for run, state in zip(some, execute(some, jobs), strict=True):
                    states[run] = state
                    if state != FINISHED:
                        print(
                            f"{labels[run]}: {state}, continuing with the next", file=sys.stderr, flush=True
                        )
    except STOPPED as stop:
        print("\ninterrupted; the same command goes on with what is missing", file=sys.stderr)
        return exit_status(stop)
    for run, state in states.items():
        print(f"{state:<12}{run.folder}")
    if unfinished := sum(state != FINISHED for state in states.values()):
        counted = f"{unfinished} of {len(states)} runs are not finished"
        print(f"{counted}; the same command tries them again", file=sys.stderr)
    return int(unfinished > 0)


def parse_seeds(text: str) -> list[int]:
    """Parse distinct non-negative numbers, such as ``1,2,3``."""
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) != len(parts):
        raise ValueError(f"SEEDS={text}: expected different numbers with commas, such as 1,2,3")
    return [int(part) for part in parts]


def run_suite(suite: str, preset: str, seeds: Sequence[int], arguments: Sequence[str], jobs: int = 1) -> int:
    """Run every experiment of a suite (of `SUITES`) with every seed, and return the exit status of `execute_all`."""
    arguments = joined(arguments)
    for option in (argument.partition("=")[0] for argument in arguments):
        if option in OWN_OPTIONS:
            raise ValueError(
                f"{option}: make reproduce sets experiment, folder and seed of every run (SEEDS=1,2,3) and scores the "
                "test patients for its table; leave it out"
            )
    preset_file(preset)
    students = STUDENTS if suite == CAPACITY else ("",)
    if suite == CAPACITY and preset not in SIZED:
        raise ValueError(
            f"SUITE={suite}: its students are sized for the shipped teacher; use DATA={' or DATA='.join(SIZED)}"
        )
    if suite == CAPACITY and (given := [one for one in arguments if one.startswith(TOWER_OPTIONS)]):
        raise ValueError(f"{given[0]}: SUITE={suite} has towers of its own; leave it out")
    runs = [
        SuiteRun(experiment_file(name).stem, preset, seed, tuple(arguments), student)
        for seed in seeds
        for student in students
        for name in SUITES[suite]
    ]
    config = resolve("srkd", preset, arguments)
    digests = content_digests(arguments) | corpus_digests(preset, arguments) | kept_teacher_digest(config)
    trained_on = shard_corpora(config.data)
    for run in runs:
        run.refuse_another(digests)
    for run in runs:  # only now, so that a refused suite leaves nothing behind
        run.claim(digests, trained_on)
    status = execute_all(runs, jobs)
    if status == 0:
        print(f"all {len(runs)} runs are finished; table: make table DATA={preset}")
    return status
