"""Process of one trial, and the metrics file that it writes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import psutil

from experiments.process import child_environment
from experiments.runs.run_folder import OUTPUTS, RUN_VARIABLE

GRACE_S = 60.0


def logged(run: str, metric: str) -> tuple[list[float], list[str]]:
    """Return a run's values of a metric, oldest first, and the names of all metrics that it has logged.

    The file may be read during a write: an incomplete last line and rows that do not fit the header are skipped.
    """
    for path in OUTPUTS.glob(f"*/{run}/metrics.csv"):
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole:
            frame = pd.read_csv(  # as text, in which a logged "nan" is not an empty field
                io.StringIO(whole), dtype=str, keep_default_na=False, na_values=[""], on_bad_lines="skip"
            )
            values = frame[metric].dropna().astype(float).tolist() if metric in frame else []
            return values, sorted({*frame.columns} - {"epoch", "step"})
    return [], []


class TrialProcess:
    """A running trial, in a process group of its own.

    Ctrl-C thus reaches the runner alone, which ends its trials in order, workers included.

    Args:
        command: The command line.
        run: Name of the run.
        group: W&B group of the sweep's runs.
        log: File for the trial's output.
        jobs: Number of parallel trials, which share the cores.
    """

    def __init__(self, command: Sequence[str], run: str, group: str, log: Path, jobs: int = 1) -> None:
        self.run = run
        self.log = log
        self.started = time.monotonic()
        environment = {**child_environment(jobs), RUN_VARIABLE: run, "WANDB_RUN_GROUP": group}
        environment.pop("WANDB_RUN_ID", None)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

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

    def end(self, grace_s: float) -> None:
        """Wait for an interrupted trial, and kill it after `grace_s` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, grace_s))
        self.kill()
        self._process.wait()

    def kill(self) -> None:
        """Kill the trial and its workers."""
        _signal_group(self.pid, signal.SIGKILL)

    def last_line(self) -> str:
        """Return the last error line of the trial's output, else its last line."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error:")]
        return (errors or lines or ["no output"])[-1].strip()


def stop_all(trials: Sequence[TrialProcess]) -> None:
    """End trials together: SIGINT to all, which lets them save, and one common period of grace before SIGKILL."""
    for trial in trials:
        if trial.exit_status() is None:
            _signal_group(trial.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
    deadline = time.monotonic() + GRACE_S
    for trial in trials:
        trial.end(deadline - time.monotonic())


def end_orphan(run: str) -> None:
    """Kill a trial that outlived its runner, workers included: they have the run's name in their environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(RUN_VARIABLE) == run:
                process.kill()


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
