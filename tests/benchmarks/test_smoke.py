"""Every benchmark runs at its tiny size and writes rows that the table can show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks_main
from benchmarks import _table
from benchmarks.__main__ import NAMES

ROOT = Path(__file__).resolve().parent.parent.parent
SLOW = {"inference"}  # builds every export first
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


def test_an_unknown_benchmark_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "lost"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no such benchmark lost; choose from: cost_curves" in done.stderr


def test_failures_are_named_even_when_there_is_no_table(monkeypatch):
    def run(command, check):
        assert not check
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu_step"])
    with pytest.raises(SystemExit, match="error: failed: gpu_step, the table"):
        benchmarks_main.main()
