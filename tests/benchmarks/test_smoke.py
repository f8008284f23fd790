"""Every benchmark runs at a tiny size and writes rows that fit the table; the command line of all of them."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks_main
from benchmarks.__main__ import NAMES, environment_of
from benchmarks._record import command, make_row, not_run, table_line
from export.latency.worker import ALLOCATOR
from models.files import write_json

ROOT = Path(__file__).resolve().parent.parent.parent
SLOW = {"inference", "training_step", "cost_curves"}  # these take half a minute and more
ABSENT = (
    "this machine has no CUDA device",
    "openvino is not installed",
    "this processor has no bfloat16 arithmetic",
)
ALL = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES]


def run(name: str, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ALL)
def test_a_quick_run_writes_its_rows(name, tmp_path):
    out = tmp_path / "result.json"
    done = run(name, out)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(out.read_text())
    assert record["benchmark"] == name
    assert record["quick"] is True
    assert record["machine"]["device"]
    assert record["machine"]["versions"]
    assert record["commit"]
    assert record["rows"]
    for row in record["rows"]:
        if row["value"] is None:
            assert row["reason"].startswith(ABSENT), "everything installed here runs"
        else:
            assert row["value"]["p10"] <= row["value"]["median"] <= row["value"]["p90"]
        assert table_line(row).count("|") == 7


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["lost"], "no such benchmark lost; choose from: cost_curves"),
        (["--table", "--bogus"], "unrecognized arguments: --bogus"),
        (["--tab"], "unrecognized arguments: --tab"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        benchmarks_main.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {error}")


def test_help_is_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit) as stop:
        benchmarks_main.main()
    assert stop.value.code == 0
    assert "--quick" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["image_pipeline", "hc18_validity"])
def test_a_missing_corpus_is_one_line(name, monkeypatch, capsys):
    monkeypatch.setenv("HC18_ROOT", "/nowhere")
    monkeypatch.setattr(sys, "argv", [name, "--quick"])
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(
        SystemExit, match=r"^error: HC18: folder /nowhere does not exist; .*HC18_ROOT=folder$"
    ):
        command(name, module.measure, "")


def test_failures_are_named_even_when_there_is_no_table(monkeypatch):
    def run(command, check, **_):
        assert not check
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu_step"])
    with pytest.raises(SystemExit, match="error: failed: gpu_step, the table"):
        benchmarks_main.main()


WHOLE = {"plane_evaluation", "training_step", "cost_curves"}
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
        assert found == (expected if name in WHOLE else {})
        assert environment_of(name).items() >= {"PATH": os.environ["PATH"]}.items()
        assert environment_of(name)["KINETO_LOG_LEVEL"] == "99"


def test_the_allocator_settings_are_those_of_the_makefile():
    lines = re.findall(r"^export (MALLOC_\w+) \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert dict(lines) == ALLOCATOR


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Stub benchmarks whose three processes measure `measured`, with a results folder of their own."""
    measured = [[1.0, 2.0], [3.0], [4.0]]
    turns = iter(range(1000))

    def run(command, check, env=None, stdout=None):
        if "--out" in command:
            values = measured[next(turns) % 3]
            row = make_row("s", "c", "x", values) if values else not_run("s", "c", "x", "no GPU")
            write_json(Path(command[command.index("--out") + 1]), {"benchmark": "gpu_step", "rows": [row]})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(benchmarks_main, "RESULTS", tmp_path)
    return measured


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu_step", *arguments])
    benchmarks_main.main()


def test_three_processes_are_stored_as_one_result(results, tmp_path, monkeypatch, capsys):
    main(monkeypatch)
    (row,) = json.loads((tmp_path / "gpu_step.json").read_text())["rows"]
    assert row["rounds"]["value"] == [1.0, 2.0, 3.0, 4.0]
    results[:] = [[], [], []]
    main(monkeypatch)
    assert "kept, with figures of a machine that could run it" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu_step.json").read_text())["rows"] == [row]
