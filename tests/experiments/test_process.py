"""A child process ends together with the one that waits for it, and is given the time to save."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments.process import TerminatedError, child_environment, run_children, terminable
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


def test_children_have_the_given_environment_and_their_statuses_are_in_order():
    code = "import os, sys; sys.exit(int(os.environ['STATUS']) + int(sys.argv[1]))"
    commands = [[sys.executable, "-c", code, str(number)] for number in (2, 0, 1)]
    assert run_children(commands, {**os.environ, "STATUS": "3"}) == [5, 3, 4]


def test_python_is_this_one_for_a_child(monkeypatch):
    monkeypatch.setenv("PATH", os.defpath)
    python = shutil.which("python", path=child_environment(1)["PATH"])
    assert Path(python).parent == Path(sys.executable).parent


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
