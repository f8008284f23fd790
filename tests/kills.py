"""Processes that die by kill -9 at a named or a random moment, for tests of what the next one makes of the rest."""

import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import cloudpickle
from fsspec.implementations.local import LocalFileOpener
from lightning import Callback

# Not forked from this process: after some backward passes torch refuses to run one in a fork.
CONTEXT = multiprocessing.get_context("forkserver")
multiprocessing.set_forkserver_preload(
    ["lightning_modules", "callbacks", "experiments.commands.data", "experiments.sweep.local_runner"]
)


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


class DieAt(Callback):
    """Die in the `number`-th call of one hook."""

    def __init__(self, hook, number):
        self.left = number
        setattr(self, hook, self._count)

    def _count(self, *_, **__):
        self.left -= 1
        if not self.left:
            die()


def wrap(owner, name, number, after):
    """Die before or after the `number`-th call of a function."""
    whole, left = getattr(owner, name), [number]

    def counted(*args, **kwargs):
        left[0] -= 1
        if not left[0] and not after:
            die()
        result = whole(*args, **kwargs)
        if not left[0]:
            die()
        return result

    setattr(owner, name, counted)


def half_written(number):
    """Die when half of a checkpoint's bytes are in the file."""
    whole, left = LocalFileOpener.write, [number]

    def write(self, content):
        left[0] -= 1
        if left[0]:
            return whole(self, content)
        whole(self, content[: len(content) // 2])
        self.f.flush()
        return die()

    LocalFileOpener.write = write


def _run(task, log):
    with Path(log).open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    cloudpickle.loads(task)()


class Child:
    """A task in a process of its own, whose output is kept."""

    def __init__(self, task):
        self._log = tempfile.NamedTemporaryFile("r", suffix=".log")  # noqa: SIM115 - removed with this object
        self.process = CONTEXT.Process(target=_run, args=(cloudpickle.dumps(task), self._log.name))
        self.process.start()

    def end(self, kill_after=None):
        """Wait for its end, or kill it after some seconds; return the exit status and the output."""
        self.process.join(kill_after)
        if kill_after is not None:
            self.process.kill()
            self.process.join()
        return self.process.exitcode, Path(self._log.name).read_text()


def in_child(task, kill_after=None):
    """Run a task in a process of its own; return whether it was killed."""
    status, output = Child(task).end(kill_after)
    assert status in (0, -signal.SIGKILL), output
    return status != 0


def seconds_of(task):
    """Run a task to its end; return how long it took, without the start of the server that forks."""
    assert not in_child(lambda: None)
    began = time.monotonic()
    assert not in_child(task)
    return time.monotonic() - began


class RandomKills:
    """Kills tasks at random moments of the time that one took unbroken.

    A task that ended before, because the machine was busier then, halves that time for the next.
    """

    def __init__(self, seconds):
        self.seconds, self.dice, self.killed = seconds, random.Random(0), 0

    def __call__(self, task):
        died = in_child(task, self.seconds * self.dice.uniform(0.05, 0.95))
        self.killed += died
        self.seconds /= 1 if died else 2
