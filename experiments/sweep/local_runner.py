"""Run a sweep file on this machine without an account: Optuna proposes, child processes train."""

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

from experiments.process import without_secrets
from experiments.sweep.local_settings import ONLY_ON_WANDB
from experiments.sweep.local_study import REASON, LocalStudy, only_runner
from experiments.sweep.sweep_file import SweepFile
from experiments.sweep.trial_command import as_typed, trial_command, with_arguments
from experiments.sweep.trial_process import TrialProcess, logged, stop_all

POLL_S = 1.0
HOPELESS = 3  # failed trials before any was trained: their common settings are wrong
DONE, FAILED, STOPPED = 0, 1, 130  # exit statuses


class LocalRunner:
    """Keep up to `jobs` trials running until the sweep has `limit` of them.

    Args:
        local: The sweep's study.
        arguments: Extra arguments of every trial.
        jobs: Number of parallel trials.
    """

    def __init__(self, local: LocalStudy, arguments: Sequence[str], jobs: int) -> None:
        self.local = local
        self.command = with_arguments(local.sweep.command, arguments)
        self.jobs = jobs
        self.stopping = False
        self._failures = 0
        self._active: dict[int, tuple[optuna.Trial, TrialProcess]] = {}

    @property
    def hopeless(self) -> bool:
        """Whether the first trials of this call all failed, and none of the sweep was ever trained."""
        return self._failures >= HOPELESS and not self.local.trained()

    def run(self, limit: int) -> None:
        """Run trials; when asked to stop, end the running ones and queue their settings again."""
        local = self.local
        try:
            while not self.stopping:
                while len(self._active) < self.jobs and local.counted() < limit:
                    if self.hopeless or local.reached_target():
                        break
                    self._start(limit)
                if not self._active:
                    return
                time.sleep(POLL_S)
                for number in list(self._active):
                    self._poll(number)
        finally:
            stop_all([process for _, process in self._active.values()])
            for number in self._active:
                local.give_back(number)
                print(f"trial {number} interrupted; its settings run again when the sweep is resumed")

    def kill(self) -> None:
        """Kill the running trials."""
        for _, process in self._active.values():
            process.kill()

    def _start(self, limit: int) -> None:
        local = self.local
        trial = local.study.ask(local.space)
        run = local.run_name(trial.number)
        command = trial_command(self.command, trial.params, local.settings.program)
        trial.set_user_attr("command", shlex.join(without_secrets(command)))
        trial.set_user_attr("run", run)
        try:
            process = TrialProcess(command, run, local.group, local.folder / "logs" / f"{run}.log", self.jobs)
        except OSError as error:  # as a rule the program does not exist
            reason = f"command: {error.filename or command[0]}: {error.strerror}"
            self._failures += 1
            trial.set_user_attr(REASON, reason)
            local.study.tell(trial, state=TrialState.FAIL)
            print(f"trial {trial.number}: FAILED, {reason}", flush=True)
            return
        trial.set_user_attr("pid", process.pid)
        self._active[trial.number] = trial, process
        typed = as_typed(without_secrets(command))
        print(f"[{local.counted()}/{limit}] trial {trial.number}: {typed}", flush=True)

    def _poll(self, number: int) -> None:
        """Report a trial's evaluations, stop it when it falls behind, and record its end."""
        trial, process = self._active[number]
        study, metric = self.local.study, self.local.settings.metric.name
        status = process.exit_status()
        history, names = logged(process.run, metric)
        known = len(study.get_trials(deepcopy=False)[number].intermediate_values)
        prune = False
        for step, value in enumerate(history[known:], start=known + 1):
            trial.report(value, step)
            prune = prune or (status is None and trial.should_prune())
        if status is None and not prune:
            return
        state, reason = TrialState.FAIL, ""
        final: float | None = None
        if prune:
            stop_all([process])
            state, note = TrialState.PRUNED, f"stopped early after {len(history)} evaluations"
        elif status != 0:
            reason = f"exit status {status}: {process.last_line()}"
        elif not history or not math.isfinite(history[-1]):
            reason = f"{metric} was never logged; logged: {', '.join(names) or 'nothing'}"
        else:
            final = history[-1]
            state, note = TrialState.COMPLETE, f"{metric} {final:.4g}"
        if reason:
            self._failures += 1
            trial.set_user_attr(REASON, reason)
            note = f"FAILED, {reason} (output: {process.log})"
        del self._active[number]
        trial.set_user_attr("seconds", round(process.seconds, 1))
        study.tell(trial, final, state=state)
        print(f"trial {number}: {note} ({process.seconds:.0f} s)", flush=True)


def run_locally(
    sweep: SweepFile, folder: Path, count: int | None, jobs: int, arguments: Sequence[str], seed: int = 0
) -> int:
    """Run a sweep on this machine, or resume it.

    Args:
        sweep: The sweep file.
        folder: Folder of journal and logs.
        count: Total number of trials, those of earlier calls included; None for the file's ``run_cap``, else all
            cells of a grid, else 20.
        jobs: Number of parallel trials.
        arguments: Extra arguments of every trial, before its parameters.
        seed: Seed of the sampler.

    Returns:
        Exit status: 0 when the sweep has all its trials, 1 when every one failed, 130 when it was interrupted.

    Raises:
        ValueError: The sweep file cannot be used here, or the folder is in use or holds another sweep.
    """
    with only_runner(folder):
        local = LocalStudy.open(sweep, folder, arguments, seed)
        runner = LocalRunner(local, arguments, jobs)
        limit = local.limit(count)
        method, names = local.settings.method, ", ".join(local.space)
        print(f"sweep {folder.name}: {method} over {names}; {local.counted()} of {limit} trials done")
        metric = local.settings.metric
        unused = [key for key in sweep.config if key in ONLY_ON_WANDB - {"description", "project", "entity"}]
        unused += [f"metric.{key}" for key in metric.model_fields_set if key.startswith("impute")]
        for key in unused:
            print(f"note: {key} acts on W&B only")
        with _stopping_cleanly(runner):
            runner.run(limit)
        if runner.stopping:
            return STOPPED
        if local.reached_target():
            print(f"metric.target {metric.target:g} is reached: no further trials")
        if runner.hopeless:
            print(
                f"stopped: the first {HOPELESS} trials failed; fix the errors above and start again "
                "(other ARGS need another SWEEP_NAME=...)"
            )
        return DONE if local.trained() else FAILED


@contextmanager
def _stopping_cleanly(runner: LocalRunner) -> Iterator[None]:
    """End the sweep on Ctrl-C or SIGTERM after its trials were interrupted; a second signal kills them."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if runner.stopping:
            runner.kill()
            return
        runner.stopping = True
        print("\nstopping: ending the running trials (Ctrl-C again: at once) ...", flush=True)

    # Set even if Ctrl-C was ignored, as in background jobs: children inherit an ignored signal, but no handler.
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
