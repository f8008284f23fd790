"""Trials end together with the processes that they wait for, and share the cores."""

import sys
from pathlib import Path

import pytest

from datamodules import cores
from experiments.process import THREADS, child_environment
from experiments.sweep import trial_process
from experiments.sweep.trial_process import TrialProcess, end_orphan, stop_all
from tests.conftest import wait_until

# Like a trial that trains its teacher first: Ctrl-C ends its wait only after the child has ended.
WAITS_FOR_ITS_CHILD = """
import os, sys
from experiments.process import run_children
child = '''
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1]).write_text("told")
    sys.exit(130)
signal.signal(signal.SIGINT, save)
pathlib.Path(sys.argv[1]).write_text("ready")
time.sleep(120)
'''
run_children([[sys.executable, "-c", child, sys.argv[1]]], os.environ)
"""
# Ends once it and the trials beside it were all told to.
SLOW_TO_END = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1]).write_text("told")
    while any(path.read_text() == "ready" for path in map(pathlib.Path, "abc") if path.exists()):
        time.sleep(0.02)
    sys.exit(130)
signal.signal(signal.SIGINT, save)
pathlib.Path(sys.argv[1]).write_text("ready")
time.sleep(120)
"""
DEAF = SLOW_TO_END.replace("signal.SIGINT, save", "signal.SIGINT, signal.SIG_IGN")


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    started = []

    def start(code, name):
        command = [sys.executable, "-c", code, name]
        started.append(TrialProcess(command, f"run-{name}", "group", tmp_path / f"{name}.log"))
        wait_until(lambda: (tmp_path / name).exists() or started[-1].exit_status() is not None)
        assert started[-1].exit_status() is None, started[-1].last_line()
        return started[-1]

    yield start
    for trial in started:
        trial.kill()
        trial.end(10)


def test_the_child_of_a_trial_is_interrupted_too(start):
    trial = start(WAITS_FOR_ITS_CHILD, "a")
    stop_all([trial])
    assert Path("a").read_text() == "told"
    assert trial.exit_status() != -9, "it ended by itself"


def test_trials_are_interrupted_together_with_one_period_of_grace(start, monkeypatch):
    slow = [start(SLOW_TO_END, name) for name in "abc"]
    stop_all(slow)
    assert [trial.exit_status() for trial in slow] == [130] * 3, (
        "one after another, the first would be killed"
    )
    monkeypatch.setattr(trial_process, "GRACE_S", 0.5)
    deaf = [start(DEAF, name) for name in "def"]
    stop_all(deaf)
    assert all(trial.exit_status() == -9 for trial in deaf)


def test_an_orphan_is_identified_by_its_run(start):
    trial = start(SLOW_TO_END, "a")
    end_orphan("run-b")
    assert trial.exit_status() is None
    end_orphan("run-a")
    trial.end(10)
    assert trial.exit_status() == -9
    end_orphan("run-a")  # long gone


def test_parallel_trials_share_the_cores_unless_the_user_decides(monkeypatch):
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    assert THREADS not in child_environment(1)
    assert [child_environment(jobs)[THREADS] for jobs in (2, 3, 16)] == ["4", "2", "1"]
    monkeypatch.setenv(THREADS, "7")
    assert child_environment(2)[THREADS] == "7"
