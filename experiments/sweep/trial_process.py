"""One trial of a sweep: a subprocess, and the metrics file it writes."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from experiments.run_folder import OUTPUTS, RUN_VARIABLE

GRACE_S = 60.0
THREADS = "OMP_NUM_THREADS"


def own_threads(jobs: int) -> dict[str, str]:
    """Return the variable that shares the cores among trials at once; nothing for one, or where the user set it."""
    if jobs == 1 or THREADS in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {THREADS: str(max(1, cores // jobs))}


def trial_environment(run: str, group: str, jobs: int) -> dict[str, str]:
    """Return the environment of a trial: its run's name and W&B group, its threads, and this very Python first."""
    inherited = {key: value for key, value in os.environ.items() if key != "WANDB_RUN_ID"}
    python = str(Path(sys.executable).parent)
    return {
        **inherited,
        **own_threads(jobs),
        RUN_VARIABLE: run,
        "WANDB_RUN_GROUP": group,
        "PATH": f"{python}{os.pathsep}{inherited.get('PATH', '')}",
    }


def metric_history(run: str, metric: str) -> list[float]:
    """Return the values that a run has logged of a metric so far, oldest first.

    The file may be in the middle of being written: an unfinished last line and rows that do not fit the
    header are left for the next look.

    Args:
        run: Name of the run's folder under ``outputs/<experiment>/``.
        metric: Name of the metric.
    """
    values: list[float] = []
    for path in OUTPUTS.glob(f"*/{run}/metrics.csv"):
        text = path.read_text()
        rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
        if not rows or metric not in rows[0]:
            continue
        column = rows[0].index(metric)
        values += [float(row[column]) for row in rows[1:] if len(row) == len(rows[0]) and row[column]]
    return values


def metric_names(run: str) -> list[str]:
    """Return the names of all metrics that a run has logged."""
    names: set[str] = set()
    for path in OUTPUTS.glob(f"*/{run}/metrics.csv"):
        names.update(next(csv.reader(path.read_text().splitlines()), []))
    return sorted(names - {"epoch", "step"})


class TrialProcess:
    """A running trial, in a process group of its own.

    So Ctrl-C reaches the runner alone, which then ends its trials in order, workers included.

    Args:
        command: The command line.
        run: Name of the run.
        group: W&B group of the sweep's runs.
        log: File that takes the trial's output.
        jobs: Trials at once, which share the cores.
    """

    def __init__(self, command: Sequence[str], run: str, group: str, log: Path, jobs: int = 1) -> None:
        self.run = run
        self.log = log
        self.started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=trial_environment(run, group, jobs),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the start."""
        return time.monotonic() - self.started

    def exit_status(self) -> int | None:
        """Return the exit status, None while the trial runs."""
        status = self._process.poll()
        if status is not None:
            self.kill()  # workers that outlived their parent
        return status

    def interrupt(self) -> None:
        """Ask the trial to end, as a terminal's Ctrl-C does: a teacher that it trains first is told as well."""
        if self._process.poll() is None:
            _signal_group(self.pid, signal.SIGINT)

    def end(self, grace_s: float) -> None:
        """Wait for the end of an interrupted trial, after `grace_s` seconds by force."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, grace_s))
        self.kill()
        self._process.wait()

    def kill(self) -> None:
        """End the trial and its workers by force."""
        _signal_group(self.pid, signal.SIGKILL)

    def last_line(self) -> str:
        """Return the last line of the trial's output that is not blank: what it died of."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error:")]
        return (errors or lines or ["no output"])[-1].strip()


def stop_all(trials: Sequence[TrialProcess]) -> None:
    """End trials together: Ctrl-C for all, which lets them save, and one time of grace before force."""
    for trial in trials:
        trial.interrupt()
    deadline = time.monotonic() + GRACE_S
    for trial in trials:
        trial.end(deadline - time.monotonic())


def end_orphan(pid: int, run: str) -> None:
    """End a trial whose runner was killed, if it still runs; another process of the same id is left alone."""
    with contextlib.suppress(psutil.Error):
        if psutil.Process(pid).environ().get(RUN_VARIABLE) == run:
            _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
