"""Every benchmark runs at its tiny size and writes rows that the table can show."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as benchmarks_main
from benchmarks import _table
from benchmarks.__main__ import NAMES, disagreements, environment_of
from benchmarks._record import ONE_MINUS, command, make_row, not_run, save
from benchmarks.cost_curves import curve
from export.latency.machine import ALLOCATOR

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
            assert row["reason"].startswith(ABSENT), "what is installed here has run"
        else:
            assert row["value"]["p10"] <= row["value"]["median"] <= row["value"]["p90"]
        assert _table.table_line(row).count("|") == 7


def test_quick_figures_never_reach_the_table(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"benchmark": "x", "quick": True, "rows": []}))
    with pytest.raises(ValueError, match=r"x.json: figures of a --quick run"):
        _table.read_results(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["lost"], "no such benchmark lost; choose from: cost_curves"),
        (["--table", "--bogus"], "unrecognized arguments: --bogus"),
        (["--tab"], "unrecognized arguments: --tab"),
        (["--table", "--agree"], "argument --agree: not allowed with argument --table"),
        (["--quick", "--agree"], "--agree needs full sizes: leave --quick out"),
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
    assert "--agree" in capsys.readouterr().out


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
def test_whole_commands_run_with_the_allocator_of_make_and_all_others_with_the_default(
    given, expected, monkeypatch
):
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for name in NAMES:
        found = {k: v for k, v in environment_of(name).items() if k.startswith("MALLOC_")}
        assert found == (expected if name in WHOLE else {})
        assert environment_of(name).items() >= {"PATH": os.environ["PATH"]}.items()
        assert environment_of(name)["KINETO_LOG_LEVEL"] == "99", "the profiler speaks at every turn"


def test_the_allocator_is_what_the_makefile_tells_glibc():
    lines = re.findall(r"^export (MALLOC_\w+) \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert dict(lines) == ALLOCATOR


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Benchmarks whose three processes measure what `measured` holds, with the results' folder to themselves."""
    measured = [[1.0, 2.0], [3.0], [4.0]]
    turns = iter(range(1000))

    def run(command, check, env=None, stdout=None):
        if "--out" in command:
            values = measured[next(turns) % 3]
            row = make_row("s", "c", "x", values) if values else not_run("s", "c", "x", "no GPU")
            save({"benchmark": "gpu_step", "rows": [row]}, Path(command[command.index("--out") + 1]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(benchmarks_main, "RESULTS", tmp_path)
    return measured


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu_step", *arguments])
    benchmarks_main.main()


def test_three_processes_are_kept_as_one_result(results, tmp_path, monkeypatch, capsys):
    main(monkeypatch)
    (row,) = json.loads((tmp_path / "gpu_step.json").read_text())["rows"]
    assert row["rounds"]["value"] == [1.0, 2.0, 3.0, 4.0]
    results[:] = [[], [], []]
    main(monkeypatch)
    assert "kept, with figures of a machine that could run it" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu_step.json").read_text())["rows"] == [row]


def share_of_disagreements(shift, noise, rounds):
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(500):
        values = rng.normal(10, 10 * noise, (2, rounds)) * [[1], [1 + shift]]
        found += bool(disagreements(*({"rows": [make_row("s", "c", "x", v)]} for v in values)))
    return found / 500


@pytest.mark.parametrize("rounds", [3, 6, 9])
def test_reruns_of_one_distribution_agree_and_a_shift_of_15_percent_does_not(rounds):
    assert share_of_disagreements(0, 0.03, rounds) < 0.02
    assert share_of_disagreements(0, 0, rounds) == 0
    for shift in (0.15, -0.15):
        assert share_of_disagreements(shift, 0.03, rounds) > 0.9
    if rounds > 3:  # the ranges of three rounds say little about a wide distribution
        assert share_of_disagreements(0, 0.2, rounds) < 0.05


def test_an_exponent_near_nought_moves_by_what_3_percent_of_a_cost_do():
    def record(slope):
        return {"rows": [curve("step", "s", "processes", [1, 2, 3], [n**slope for n in (1, 2, 3)])]}

    assert disagreements(record(-0.02), record(0.02)) == []  # log 1.03 / log 3 = 0.027 on either side
    assert disagreements(record(-0.05), record(0.02)) != []


def test_what_is_left_of_a_whole_may_move_by_a_share_of_the_whole():
    def record(value, mark):
        return {"rows": [mark | make_row("s", "c", "x", [value])]}

    assert disagreements(record(0.02, ONE_MINUS), record(0.07, ONE_MINUS)) == []
    assert disagreements(record(0.02, {}), record(0.07, {})) != []
    assert disagreements(record(0.02, ONE_MINUS), record(0.09, ONE_MINUS)) != []


def test_a_rerun_agrees_or_its_rows_are_named(results, tmp_path, monkeypatch, capsys):
    main(monkeypatch)
    before = (tmp_path / "gpu_step.json").read_text()
    results[:] = [[2.2], [2.4], [9.0]]
    main(monkeypatch, "--agree")
    results[:] = [[4.0], [4.2], [9.0]]
    with pytest.raises(SystemExit, match="error: apart from the stored spreads: gpu_step"):
        main(monkeypatch, "--agree")
    printed = capsys.readouterr().out
    assert "DISAGREES gpu_step: s, c, x: 4.04-8.04, apart from the stored 1.3-3.7" in printed
    results[:] = [[], [], []]
    with pytest.raises(SystemExit, match="error: apart"):
        main(monkeypatch, "--agree")
    assert "s, c, x: run on one side only" in capsys.readouterr().out
    assert (tmp_path / "gpu_step.json").read_text() == before
    (tmp_path / "gpu_step.json").unlink()
    with pytest.raises(SystemExit, match="error: apart"):
        main(monkeypatch, "--agree")
    assert "no stored results" in capsys.readouterr().out
