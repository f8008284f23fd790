"""Run a W&B sweep file on this machine, without an account: Optuna proposes, subprocesses train."""

from __future__ import annotations

import math
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import optuna
from optuna.trial import TrialState

from experiments.interpreter import without_secrets
from experiments.sweep.interruption import REASON
from experiments.sweep.local_study import LocalStudy, only_runner
from experiments.sweep.sweep_file import SweepFile
from experiments.sweep.trial_command import as_typed, trial_command, with_arguments
from experiments.sweep.trial_process import TrialProcess, metric_history, metric_names, stop_all

POLL_S = 1.0
HOPELESS = 3  # trials that fail before any was trained: their common settings are wrong
DONE, FAILED, STOPPED = 0, 1, 130  # exit statuses


class LocalRunner:
    """Keep up to `jobs` trials running until the sweep has `limit` of them.

    Args:
        local: The sweep's study.
        arguments: Extra arguments of every trial.
        jobs: Trials at once.
    """

    def __init__(self, local: LocalStudy, arguments: Sequence[str], jobs: int) -> None:
        self.local = local
        self.command = with_arguments(local.sweep.command, arguments)
        self.jobs = jobs
        self.stopping = False
        self._failures = 0
        self._active: dict[int, tuple[optuna.Trial, TrialProcess]] = {}

    def run(self, limit: int) -> None:
        """Run trials; when asked to stop, end the running ones and give their settings back."""
        try:
            while not self.stopping:
                while len(self._active) < self.jobs and self.local.counted() < limit and not self.settled:
                    self._start(limit)
                if not self._active:
                    return
                time.sleep(POLL_S)
                for number in list(self._active):
                    self._look_after(number)
        finally:
            stop_all([process for _, process in self._active.values()])
            for trial, _ in self._active.values():
                self.local.give_back(trial.number)
                print(f"trial {trial.number} interrupted; its settings run again when the sweep goes on")

    @property
    def settled(self) -> bool:
        """Whether further trials are for nothing: the metric's target is reached, or the common settings are wrong."""
        return self.hopeless or self.local.reached_target()

    @property
    def hopeless(self) -> bool:
        """Whether the first trials of this call all failed, and none of the sweep was ever trained."""
        return self._failures >= HOPELESS and not self.local.trained()

    def kill(self) -> None:
        """End the running trials by force."""
        for _, process in self._active.values():
            process.kill()

    def _start(self, limit: int) -> None:
        local = self.local
        trial = local.study.ask(local.space)
        run = local.run_name(trial.number)
        command = trial_command(self.command, trial.params, local.sweep.config.get("program"))
        trial.set_user_attr("command", shlex.join(without_secrets(command)))
        trial.set_user_attr("run", run)
        log = local.folder / "logs" / f"{run}.log"
        try:
            process = TrialProcess(command, run, local.group, log, self.jobs)
        except OSError as error:  # the program is absent, as a rule
            reason = f"command: {error.filename or command[0]}: {error.strerror}"
            self._failures += 1
            trial.set_user_attr(REASON, reason)
            local.study.tell(trial, state=TrialState.FAIL)
            print(f"trial {trial.number}: FAILED, {reason}", flush=True)
            return
        trial.set_user_attr("pid", process.pid)
        self._active[trial.number] = trial, process
        print(
            f"[{local.counted()}/{limit}] trial {trial.number}: {as_typed(without_secrets(command))}",
            flush=True,
        )

    def _look_after(self, number: int) -> None:
        """Report a trial's evaluations, stop it when it falls behind, and record its end."""
        trial, process = self._active[number]
        status = process.exit_status()
        history = metric_history(process.run, self.local.sweep.metric)
        known = len(self._reported(number))
        for step, value in enumerate(history[known:], start=known + 1):
            trial.report(value, step)
        if status is None:
            if len(history) > known and trial.should_prune():
                stop_all([process])
                self._finish(number, TrialState.PRUNED, f"stopped early after {len(history)} evaluations")
        elif status != 0:
            self._fail(number, f"exit status {status}: {process.last_line()}")
        elif not history or not math.isfinite(history[-1]):
            logged = ", ".join(metric_names(process.run)) or "nothing"
            self._fail(number, f"{self.local.sweep.metric} was never logged; logged: {logged}")
        else:
            self._finish(number, TrialState.COMPLETE, "", history[-1])

    def _reported(self, number: int) -> dict[int, float]:
        return self.local.study.get_trials(deepcopy=False)[number].intermediate_values

    def _fail(self, number: int, reason: str) -> None:
        trial, process = self._active[number]
        trial.set_user_attr(REASON, reason)
        self._finish(number, TrialState.FAIL, f"FAILED, {reason} (output: {process.log})")
        self._failures += 1

    def _finish(self, number: int, state: TrialState, note: str, value: float | None = None) -> None:
        trial, process = self._active.pop(number)
        trial.set_user_attr("seconds", round(process.seconds, 1))
        self.local.study.tell(trial, value, state=state)
        score = "" if value is None else f"{self.local.sweep.metric} {value:.4g}"
        print(f"trial {number}: {score or note} ({process.seconds:.0f} s)", flush=True)


def run_locally(
    sweep: SweepFile, folder: Path, count: int | None, jobs: int, arguments: Sequence[str], seed: int = 0
) -> int:
    """Run a sweep on this machine, or go on with it.

    Args:
        sweep: The sweep file.
        folder: Where its journal and logs are kept.
        count: Trials that the sweep shall have in all, those of earlier calls included; None for the
            file's ``run_cap``, else all cells of a grid, else 20.
        jobs: Trials at once.
        arguments: Extra arguments of every trial, before its parameters.
        seed: Seed of the sampler.

    Returns:
        The exit status: 0 when the sweep got all its trials, 1 when every one of them failed, 130 when it was asked
        to stop.
    """
    with only_runner(folder):
        local = LocalStudy.open(sweep, folder, arguments, seed)
        runner = LocalRunner(local, arguments, jobs)
        limit = local.limit(count)
        done = local.counted()
        print(
            f"sweep {folder.name}: {sweep.method} over {', '.join(local.space)}; "
            f"{done} of {limit} trials done"
        )
        for key in sweep.only_on_wandb:
            print(f"note: {key} acts on W&B alone")
        with _stopping_cleanly(runner):
            runner.run(limit)
        if runner.stopping:
            return STOPPED
        if local.reached_target():
            print(f"metric.target {sweep.config['metric']['target']:g} is reached: no further trials")
        if runner.hopeless:
            print(
                f"stopped: the first {HOPELESS} trials failed; mend what their lines say and start again "
                "(other ARGS need another SWEEP_NAME=...)"
            )
        return DONE if local.trained() else FAILED


@contextmanager
def _stopping_cleanly(runner: LocalRunner) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the sweep after its trials were told; a second Ctrl-C ends them by force."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if runner.stopping:
            runner.kill()
            return
        runner.stopping = True
        print("\nstopping: ending the running trials (Ctrl-C again: at once) ...", flush=True)

    # A Python handler, even where Ctrl-C was ignored (background jobs), also lets the trials have it back.
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
