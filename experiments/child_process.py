"""Run trainings and agents in processes of their own, and stop together with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType


class TerminatedError(Exception):
    """SIGTERM came."""


STOPPED = (KeyboardInterrupt, TerminatedError)


def exit_status(stop: BaseException) -> int:
    """Return the exit status that tells a shell which of `STOPPED` ended a program: 130 or 143."""
    return 128 + (signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)


@contextmanager
def status_for_make() -> Iterator[None]:
    """Exit with status 1 in place of 2 under make, which then adds no line of its own (see the Makefile)."""
    try:
        yield
    except SystemExit as stop:
        if stop.code == 2 and "MAKELEVEL" in os.environ:
            sys.exit(1)
        raise


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `TerminatedError` on SIGTERM, instead of leaving a child behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command to its end and return its exit status; to be called within `terminable`.

    Raises:
        KeyboardInterrupt: Ctrl-C came; the child was given the time to save its checkpoint.
        TerminatedError: SIGTERM came; it was handed on, with the same time.
    """
    return run_children([command], environment)[0]


def run_children(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> list[int]:
    """Run commands side by side to their ends, like `run_child`, and return their exit statuses in order.

    Raises:
        KeyboardInterrupt: As of `run_child`. Each further Ctrl-C is the children's, too, and is waited out.
        TerminatedError: As of `run_child`.
    """
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    stop: BaseException | None = None
    while True:
        try:
            for process in processes:
                process.wait()
            break
        except TerminatedError as error:
            stop = error
            for process in processes:
                process.terminate()
        except KeyboardInterrupt as error:  # the terminal has sent it to the children as well
            stop = error
    if stop is not None:
        raise stop
    return [process.returncode for process in processes]


def _on_sigterm(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise TerminatedError
