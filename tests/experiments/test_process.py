"""A child process ends together with the one that waits for it, and is given the time to save."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments.process import TerminatedError, run_children, terminable
from tests.conftest import wait_until

# Writes its own end down, as a training saves its checkpoint.
CHILD = """
import pathlib, signal, sys, time
def save(signum, _):
    time.sleep(0.5)
    pathlib.Path("saved").write_text(str(signum))
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
pathlib.Path("ready").touch()
time.sleep(60)
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A shell starts its background jobs with Ctrl-C ignored; the test is about jobs in the foreground.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield tmp_path
    signal.signal(signal.SIGINT, inherited)


def child(sent, pids):
    """Return the child's command, and start what interrupts both as soon as it runs."""

    def interrupt():
        wait_until(Path("ready").exists)
        if sent == signal.SIGINT:  # a terminal sends it to both
            os.kill(pids[0], sent)
        os.kill(os.getpid(), sent)

    threading.Thread(target=interrupt, daemon=True).start()
    return [sys.executable, "-c", CHILD]


@pytest.fixture
def started(monkeypatch):
    """Collect the ids of started processes."""
    pids = []
    whole = run_children.__globals__["subprocess"].Popen

    def popen(*arguments, **settings):
        process = whole(*arguments, **settings)
        pids.append(process.pid)
        return process

    monkeypatch.setattr("experiments.process.subprocess.Popen", popen)
    return pids


@pytest.mark.parametrize(
    ("sent", "raised"), [(signal.SIGTERM, TerminatedError), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_child_is_given_the_time_to_save(workplace, started, sent, raised):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(raised), terminable():
        run_children([child(sent, started)], os.environ)
    assert (workplace / "saved").read_text() == str(int(sent))
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
    assert signal.getsignal(signal.SIGTERM) is before


STOPPED = """
import atexit, sys
from experiments import __main__ as command_line


class Loud:
    def __del__(self):
        print("cleaned up")


def main():
    atexit.register(print, "exit handler")
    print("end of main")
    sys.exit(int(sys.argv[1]))


kept = Loud()
command_line.main = main
command_line.program()
"""


@pytest.mark.parametrize("status", [2, 130, 143])
def test_a_stopped_process_runs_its_exit_handlers_and_no_other_clean_up(status):
    done = subprocess.run([sys.executable, "-c", STOPPED, str(status)], capture_output=True, text=True)
    lines = ["end of main", "exit handler", *([] if status > 128 else ["cleaned up"])]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (status, lines, "")
