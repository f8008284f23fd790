"""Timing in turns, spreads, targets, pooling of processes, and results files."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import _record
from benchmarks._record import (
    command,
    in_turns,
    interleave,
    make_row,
    measured_commit,
    met,
    not_run,
    pool,
    spread,
    table_line,
    write,
)


def test_timing_runs_in_alternating_turns():
    order = []
    times = interleave({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"
    assert all(values.shape == (3,) and (values >= 0).all() for values in times.values())


def test_turns_alternate_and_return_all_results():
    order = []

    def way(name):
        return lambda: order.append(name) or len(order)

    assert in_turns({"a": way("a"), "b": way("b")}, 3) == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert "".join(order) == "abbaab"


def test_spread_is_median_and_percentiles():
    assert spread(np.arange(101)) == {"median": 50.0, "p10": 10.0, "p90": 90.0}


@pytest.mark.parametrize(
    ("values", "target", "better", "expected"),
    [
        ([5, 6, 7], 6, "higher", True),
        ([5, 5.9, 7], 6, "higher", False),
        ([0.04], 0.05, "lower", True),
        ([0.06], 0.05, "lower", False),
        ([1], None, "higher", None),
    ],
)
def test_the_median_meets_the_target(values, target, better, expected):
    row = make_row("s", "c", "x", values, target=target, better=better)
    assert met(row) is expected
    assert ("missed" in table_line(row)) is (expected is False)


def test_a_record_names_machine_versions_allocator_and_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    path = tmp_path / "x.json"
    write("x", [make_row("s", "c", "x", [1.0])], quick=False, path=path)
    record = json.loads(path.read_text())
    assert record["machine"]["cores"] >= 1
    assert "torch" in record["machine"]["versions"]
    assert record["machine"]["allocator"] == {"MALLOC_MMAP_MAX_": "0"}
    assert record["commit"]


def process(values, reason="", costs=(1.0,), case="c"):
    row = make_row(
        "s", case, "x", values, target=3, seconds={"ours": values}, limit_values=values, reason=reason
    )
    absent = not_run("s", "gpu", "x", "no CUDA device")
    return {"benchmark": "b", "rows": [row | {"curve": {"costs": [*costs]}}, absent]}


def test_rounds_of_several_processes_are_pooled():
    pooled = pool([process([1, 2], "a", [5]), process([4, 6], "b", [9]), process([11], "c", [1])])
    row, absent = pooled["rows"]
    assert row["rounds"]["value"] == [1, 2, 4, 6, 11]
    assert row["value"] == row["seconds"]["ours"] == row["times_limit"] == spread([1, 2, 4, 6, 11])
    assert row["reason"] == "b", "of the process nearest to the median"
    assert row["curve"]["costs"] == [5]
    assert absent["value"] is None
    with pytest.raises(ValueError, match="b: its processes measured different things"):
        pool([process([1]), process([1], case="d")])


def test_a_row_that_was_not_run_names_the_reason():
    row = not_run("inference", "openvino-int8", "times faster", "openvino is\nnot installed", 7.0)
    assert met(row) is None
    assert table_line(row) == (
        "| inference | openvino-int8 | not run: openvino is not installed (times faster) | "
        "at least 7: **not run** |  |  |"
    )


def test_one_process_writes_its_results_only_with_out(tmp_path, monkeypatch, capsys):
    for arguments in ([], ["--out", str(tmp_path / "x.json")]):
        assert not list(tmp_path.iterdir())
        monkeypatch.setattr(sys, "argv", ["x", *arguments])
        command("x", lambda **_: [make_row("s", "c", "times", [1.7])], "")
        assert "| s | c | 1.7 times |" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["rows"][0]["value"]["median"] == 1.7


def test_a_users_error_is_one_line(monkeypatch):
    def measure(quick):
        raise FileNotFoundError("HC18: folder /nowhere does not exist")

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit, match=r"^error: HC18: folder /nowhere does not exist$"):
        command("x", measure, "")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [("benchmarks/results/a.json", "abc"), ("docs/performance-a.png", "abc"), ("losses/a.py", "abc-dirty")],
)
def test_changed_results_do_not_mark_the_commit_dirty(changed, expected, tmp_path, monkeypatch):
    path = tmp_path / changed
    path.parent.mkdir(parents=True)
    path.write_text("old")
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*settings, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    path.write_text("new")
    monkeypatch.setattr(_record, "ROOT", tmp_path)
    monkeypatch.setattr(_record, "git_commit", lambda: "abc-dirty")
    assert measured_commit() == expected
