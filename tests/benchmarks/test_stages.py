"""Every stage runs at a tiny size and gives rows that fit the table; the command line of all of them."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks import __main__ as front
from benchmarks import _table
from benchmarks.__main__ import NAMES, ROOT, environment_of
from benchmarks._record import Row, peak_numbers
from benchmarks.grad_cache import make_step
from export.latency.worker import ALLOCATOR

ABSENT = ("this processor has no bfloat16 arithmetic",)
IN_PROCESS = [name for name in NAMES if name != "phantom_speed"]  # starts processes itself
LONG = ("shard_speed", "training_step", "hc18_validity")
ALL = [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in IN_PROCESS]


def bench(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    front.main()


@pytest.mark.parametrize("name", ALL)
def test_a_quick_run_gives_rows(name, tmp_path, monkeypatch):
    monkeypatch.delenv("HC18_ROOT", raising=False)
    for setting in (
        "torch.set_num_threads",
        "cv2.setNumThreads",
    ):  # of the process of a stage, not of all tests
        monkeypatch.setattr(setting, lambda _: None)
    out = tmp_path / "rows.json"
    bench(monkeypatch, name, "--quick", "--out", out)
    check([Row(**row) for row in json.loads(out.read_text())])


def check(rows):
    assert rows
    for row in rows:
        assert row.values or row.reason in ABSENT, "everything that this machine can do runs"
        assert all(map(math.isfinite, row.values))
        assert all(value > 0 for way in row.seconds.values() for value in way)
        assert row.line().count("|") == 7


def test_the_peak_of_a_step_includes_its_gradients():
    step = make_step(4, None)
    first, second = peak_numbers(step), peak_numbers(step)
    assert second == pytest.approx(first, rel=0.05), "also after another step"


def test_a_stage_runs_in_a_process_of_its_own():
    check(front.measure("phantom_speed", quick=True))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["lost"], "argument NAME: no such benchmark lost"),
        (["--tab"], "unrecognized arguments: --tab"),
        (["--out=x.json"], "--out takes the rows of one NAME"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, error, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        bench(monkeypatch, *arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {error}")


def test_a_missing_corpus_is_one_line(monkeypatch):
    monkeypatch.setenv("HC18_ROOT", "/nowhere")
    with pytest.raises(
        SystemExit, match=r"^error: HC18: folder /nowhere does not exist; .*HC18_ROOT=folder$"
    ):
        bench(monkeypatch, "image_pipeline", "--quick", "--out=x.json")


OURS, GIVEN = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}, {"MALLOC_MMAP_MAX_": "65536"}


@pytest.mark.parametrize(
    ("given", "expected"), [({}, OURS), (OURS, OURS), (GIVEN, OURS | GIVEN)], ids=["clean", "make", "own"]
)
def test_whole_commands_run_with_the_allocator_of_make(given, expected, monkeypatch):
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for name in NAMES:
        found = {k: v for k, v in environment_of(name).items() if k.startswith("MALLOC_")}
        assert found == (expected if name in ("plane_evaluation", "training_step") else {})
        assert environment_of(name)["PATH"] == os.environ["PATH"]


def test_the_allocator_settings_are_those_of_the_makefile():
    lines = re.findall(r"^export (MALLOC_\w+) \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert dict(lines) == ALLOCATOR


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Rounds that each process measures next; None fails. Results and page are of the test's own."""
    measured = []

    def measure(name):
        values = measured.pop(0)
        if values is None:
            raise subprocess.CalledProcessError(1, name)
        return [Row("s", "c", "x", values, reason="no GPU")]

    monkeypatch.setattr(front, "measure", measure)
    monkeypatch.setattr(_table, "RESULTS", tmp_path)
    monkeypatch.setattr(_table, "write_page", lambda *_: None)
    return measured


def test_three_processes_are_stored_as_one_result(processes, tmp_path, monkeypatch):
    processes += [[1.0, 2.0], [3.0], [4.0]]
    bench(monkeypatch, "grad_cache")
    stored = json.loads((tmp_path / "grad_cache.json").read_text())
    assert stored["rows"][0]["values"] == [1.0, 2.0, 3.0, 4.0]
    assert stored["commit"]
    assert stored["machine"]["cores"] >= 1
    assert "torch" in stored["machine"]["versions"]


def test_a_stage_that_fails_is_named_after_the_others(processes, monkeypatch, capsys):
    processes += [None, [1.0], [1.0], [1.0]]
    with pytest.raises(SystemExit, match=r"error: failed: grad_cache$"):
        bench(monkeypatch, "grad_cache", "loss_speed")
    assert "| s | c | 1 x |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_terminated_bench_ends_its_measurement():
    bench = psutil.Popen([sys.executable, "-m", "benchmarks", "--quick", "grad_cache"], cwd=ROOT)
    (child,) = next(found for _ in range(600) if (found := bench.children() or time.sleep(0.1)))
    bench.terminate()
    assert bench.wait(60) == 143
    assert not child.is_running()
