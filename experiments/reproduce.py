"""``make reproduce``: run the experiments of the paper's tables, each with several seeds."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.child_process import STOPPED, exit_status, run_child, terminable
from experiments.content_digest import content_digests
from experiments.corpus_digest import corpus_digests, shard_corpora
from experiments.interpreter import without_secrets
from experiments.recipes import experiment_file, preset_file
from experiments.run_folder import OUTPUTS, RUN_VARIABLE
from experiments.suites import SUITES

PREFIX = "reproduce-"
REQUEST = "request.json"
# What a suite decides itself: where a run writes, its seed, and that it is whole and scored.
OWN_OPTIONS = (
    "--run", "--ckpt_path", "--seed_everything", "--data.seed", "--data.init_args.seed",
    "--score_test_patients", "--trainer.fast_dev_run", "--quick",
)  # fmt: skip
FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"


@dataclass(frozen=True)
class Run:
    """One training of a suite.

    Attributes:
        experiment: Name of the experiment.
        preset: Name of the data preset.
        seed: Of weights, order and augmentation; patients are split alike for all seeds.
        arguments: Further arguments of ``python -m experiments train``.
    """

    experiment: str
    preset: str
    seed: int
    arguments: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return OUTPUTS / self.experiment / f"{PREFIX}{self.preset}-s{self.seed}"

    @property
    def is_finished(self) -> bool:
        """Whether it was trained and tested to the end."""
        return has_results(self.folder)

    def command(self) -> list[str]:
        """Return the command that starts the run, or goes on where it was interrupted."""
        command = [sys.executable, "-m", "experiments", "train", self.experiment, self.preset]
        # Behind the user's arguments: a file among them (--config) must not change these.
        command += [*self.arguments, f"--seed_everything={self.seed}", f"--data.init_args.seed={self.seed}"]
        command += [f"--run={self.folder.name}", "--score_test_patients=true", "--quick=false"]
        last = self.folder / "checkpoints" / "last.ckpt"
        return [*command, f"--ckpt_path={last}"] if last.is_file() else command

    def claim(self, digests: Mapping[str, str], trained_on: Mapping[str, str]) -> None:
        """Write down what the run was asked for.

        Args:
            digests: What `content_digests` and `corpus_digests` give for its arguments.
            trained_on: What `shard_corpora` gives.

        Raises:
            ValueError: Its folder belongs to a run with other arguments, or with other weights, prompts or data, whose
                results would pass for these.
        """
        path = self.folder / REQUEST
        asked: dict[str, Any] = {
            "arguments": without_secrets(list(self.arguments)),
            "digests": dict(digests),
            "trained_on": dict(trained_on),
        }
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["arguments"] != asked["arguments"]:
                given = " ".join(before["arguments"]) or "none"
                raise ValueError(f"{self.folder} holds a run with other arguments ({given}); move it away")
            # Requests of earlier versions say less of contents, or nothing.
            changed = [
                f"what {name} names had the digest {old} and has {digests.get(name)}"
                for name, old in before.get("digests", {}).items()
                if digests.get(name) != old
            ]
            if changed:
                raise ValueError(
                    f"{self.folder} holds a run with other contents: {', '.join(changed)}; name the former again, "
                    "or move the folder away"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asked), encoding="utf-8")
        partial.replace(path)


def has_results(folder: Path) -> bool:
    """Tell whether a run's folder holds results that count; those of a quick run do not."""
    path = folder / "results.json"
    if not path.is_file():
        return False
    record = json.loads(path.read_text(encoding="utf-8"))
    return not record.get("run", {}).get("quick", False)


def execute(run: Run) -> str:
    """Train and test one run in a process of its own, and return how it ended.

    Raises:
        KeyboardInterrupt: Ctrl-C came; the run was given the time to save its checkpoint.
        TerminatedError: SIGTERM came; it was handed on, with the same time.
    """
    environment = {key: value for key, value in os.environ.items() if key != RUN_VARIABLE}
    status = run_child(run.command(), environment)
    if run.is_finished:
        return FINISHED
    # A run that was interrupted by itself ends without an error and without results.
    return INTERRUPTED if status in (0, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGINT) else FAILED


def execute_all(runs: Sequence[Run]) -> dict[Run, str]:
    """Execute every run that is not finished; a failed one does not stop the others."""
    states: dict[Run, str] = {}
    for number, run in enumerate(runs, start=1):
        label = f"[{number}/{len(runs)}] {run.experiment}, {run.preset}, seed {run.seed}"
        if run.is_finished:
            print(f"{label}: finished before, skipped", flush=True)
            states[run] = FINISHED
            continue
        print(f"{label}: {run.folder}", flush=True)
        states[run] = execute(run)
        if states[run] != FINISHED:
            print(f"{label}: {states[run]}, going on with the next", file=sys.stderr, flush=True)
    return states


def print_summary(states: dict[Run, str]) -> None:
    """Print how every run ended."""
    table = Table("experiment", "seed", "state", "folder", title="runs")
    colours = {FINISHED: "green", FAILED: "red", INTERRUPTED: "yellow"}
    for run, state in states.items():
        table.add_row(run.experiment, str(run.seed), f"[{colours[state]}]{state}[/]", str(run.folder))
    Console().print(table)


def parse_seeds(text: str) -> list[int]:
    """Read ``1,2,3``.

    Raises:
        ValueError: It is not a list of different numbers.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"SEEDS={text}: expected numbers with commas, such as 1,2,3") from None
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"SEEDS={text}: seeds must differ and not be negative")
    return seeds


def refuse_own_options(arguments: Sequence[str]) -> None:
    """Refuse options that would give a suite's runs another folder or seed, or no scores for its table.

    Raises:
        ValueError: There is one of `OWN_OPTIONS`.
    """
    for argument in arguments:
        option = argument.partition("=")[0]
        if option in OWN_OPTIONS:
            raise ValueError(
                f"{option}: make reproduce sets the folder and seed of every run (SEEDS=1,2,3) and scores the test "
                "patients, of which the table is made; leave it out"
            )


def main(argv: list[str]) -> int:
    """Run a suite.

    Args:
        argv: ``SUITE DATA [--seeds=1,2,3]``; all other arguments go to every run.

    Returns:
        0 when every run is finished, 1 when one is not, 130 or 143 after an interruption.

    Raises:
        ValueError: A name or seed is wrong, an option is the suite's own, or a folder holds a run with other
            arguments or contents.
        FileNotFoundError: Weights, prompts or data are not where the arguments say.
    """
    parser = argparse.ArgumentParser(prog="reproduce", description=__doc__, allow_abbrev=False)
    parser.add_argument("suite", choices=list(SUITES), help="which table of the paper")
    parser.add_argument("data", help="data preset")
    parser.add_argument("--seeds", default="1,2,3", help="one run a seed")
    arguments, rest = parser.parse_known_args(argv)
    refuse_own_options(rest)
    preset_file(arguments.data)  # a typo shows before anything runs
    runs = [
        Run(experiment_file(name).stem, arguments.data, seed, tuple(rest))
        for seed in parse_seeds(arguments.seeds)
        for name in SUITES[arguments.suite]
    ]
    digests = content_digests(rest) | corpus_digests(arguments.data, rest)
    trained_on = shard_corpora(arguments.data, rest)
    for run in runs:
        run.claim(digests, trained_on)
    try:
        with terminable():
            states = execute_all(runs)
    except STOPPED as stop:
        print("\ninterrupted; the same command goes on where this one stopped", file=sys.stderr)
        return exit_status(stop)
    print_summary(states)
    unfinished = sum(state != FINISHED for state in states.values())
    if unfinished:
        counted = f"{unfinished} of {len(states)} runs are not finished"
        print(f"{counted}; the same command tries them again", file=sys.stderr)
    else:
        print(f"all {len(states)} runs are finished; make table DATA={arguments.data} makes the table")
    return int(unfinished > 0)
