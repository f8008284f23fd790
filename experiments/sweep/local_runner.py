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
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from experiments.process import without_secrets
from experiments.sweep.local_settings import without_effect
from experiments.sweep.local_study import REASON, LocalStudy
from experiments.sweep.sweep_file import SweepFile, as_typed, trial_command
from experiments.sweep.trial_process import TrialProcess, logged, stop_all

POLL_S = 1.0
MAX_INITIAL_FAILURES = 3  # failed trials before any was trained: their common settings are wrong
DONE, FAILED = 0, 1  # exit statuses


class LocalRunner:
    """Keep up to `jobs` trials of a study running; `command` is that of a trial without its parameters."""

    def __init__(self, local: LocalStudy, command: Sequence[str], jobs: int) -> None:
        self.local = local
        self.command = command
        self.jobs = jobs
        self.stopped_by: int | None = None  # the signal
        self._failures = 0
        self._active: dict[int, tuple[optuna.Trial, TrialProcess]] = {}

    @property
    def hopeless(self) -> bool:
        """Whether the first trials of this call all failed, and none of the sweep was ever trained."""
        return self._failures >= MAX_INITIAL_FAILURES and not self.local.trained()

    def run(self, limit: int) -> None:
        """Run trials until there are `limit`; when asked to stop, end those running and queue their settings again."""
        local = self.local
        try:
            while self.stopped_by is None:
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
                local.requeue(number)
                print(f"trial {number} interrupted; its settings run again when the sweep is resumed")

    def stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handle a signal: the first ends the running trials, the second kills them."""
        if self.stopped_by is not None:
            for _, process in self._active.values():
                process.kill()
            return
        self.stopped_by = number
        print("\nstopping: ending the running trials (Ctrl-C again: at once) ...", flush=True)

    def _start(self, limit: int) -> None:
        local = self.local
        trial = local.study.ask(local.space)
        run = local.run_name(trial.number)
        command = trial_command(self.command, trial.params)
        shown = without_secrets(command)
        trial.set_user_attr("command", shlex.join(shown))
        trial.set_user_attr("run", run)
        log = local.folder / "logs" / f"{run}.log"
        try:
            process = TrialProcess(command, run, local.study.study_name, log, self.jobs)
        except OSError as error:  # as a rule the program does not exist
            self._fail(trial, f"command: {error.filename or command[0]}: {error.strerror}")
            return
        self._active[trial.number] = trial, process
        print(f"[{local.counted()}/{limit}] trial {trial.number}: {as_typed(shown)}", flush=True)

    def _fail(self, trial: optuna.Trial, reason: str, where: str = "") -> None:
        self._failures += 1
        trial.set_user_attr(REASON, reason)
        self.local.study.tell(trial, state=TrialState.FAIL)
        print(f"trial {trial.number}: FAILED, {reason}{where}", flush=True)

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
            # Asked of an ended trial, too: the pruner compares later trials with it.
            behind = trial.should_prune()
            prune = prune or (status is None and behind)
        if status is None and not prune:
            return
        del self._active[number]
        if prune:
            stop_all([process])
        trial.set_user_attr("seconds", round(process.seconds, 1))
        took = f" ({process.seconds:.0f} s)"
        if prune:
            study.tell(trial, state=TrialState.PRUNED)
            print(f"trial {number}: stopped early after {len(history)} evaluations{took}", flush=True)
        elif status == 0 and history and math.isfinite(history[-1]):
            study.tell(trial, history[-1])
            print(f"trial {number}: {metric} {history[-1]:.4g}{took}", flush=True)
        else:
            missing = f"{metric} was never logged; logged: {', '.join(names) or 'nothing'}"
            reason = f"exit status {status}: {process.last_line()}" if status else missing
            self._fail(trial, reason, f" (output: {process.log}){took}")


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
        Exit status: 0 when the sweep has all its trials, 1 when every one failed, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        ValueError: The sweep file cannot be used here, the folder holds another sweep, or another runner works on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock", timeout=0).acquire()
    except Timeout:
        raise ValueError(
            f"{folder}: another process runs this sweep; wait, or start another with SWEEP_NAME=..."
        ) from None
    with lock:  # the system releases it when the runner dies
        local = LocalStudy.open(sweep, folder, arguments, seed)
        runner = LocalRunner(local, sweep.command(arguments), jobs)
        limit = local.limit(count)
        method, names = local.settings.method, ", ".join(local.space)
        print(f"sweep {folder.name}: {method} over {names}; {local.counted()} of {limit} trials done")
        for key in without_effect(local.settings):
            print(f"note: {key} acts on W&B only")
        with _signals_to(runner):
            runner.run(limit)
        if runner.stopped_by is not None:
            return 128 + runner.stopped_by
        if local.reached_target():
            print(f"metric.target {local.settings.metric.target:g} is reached: no further trials")
        if runner.hopeless:
            print(
                f"stopped: the first {MAX_INITIAL_FAILURES} trials failed; fix the errors above and start again "
                "(other ARGS need another SWEEP_NAME=...)"
            )
        return DONE if local.trained() else FAILED


@contextmanager
def _signals_to(runner: LocalRunner) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the sweep after its trials were interrupted."""
    # Set even if Ctrl-C was ignored, as in background jobs: children inherit an ignored signal, but no handler.
    previous = {number: signal.signal(number, runner.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
