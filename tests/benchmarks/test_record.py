"""Ways are timed in turns, spreads are percentiles, and a target is met or it is not."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import _record
from benchmarks._record import (
    command,
    interleave,
    line,
    make_row,
    measured_commit,
    met,
    not_run,
    pool,
    spread,
    write,
)


def test_ways_are_timed_in_turns_that_alternate():
    order = []
    times = interleave({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"
    assert all(values.shape == (3,) and (values >= 0).all() for values in times.values())


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
def test_the_median_decides(values, target, better, expected):
    row = make_row("s", "c", "x", values, target=target, better=better)
    assert met(row) is expected
    assert ("MISSED" in line(row)) is (expected is False)


def test_a_record_names_machine_versions_allocator_and_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    path = tmp_path / "x.json"
    write("x", [make_row("s", "c", "x", [1.0])], quick=False, path=path, more=3)
    record = json.loads(path.read_text())
    assert record["machine"]["cores"] >= 1
    assert "torch" in record["machine"]["versions"]
    assert record["machine"]["allocator"] == {"MALLOC_MMAP_MAX_": "0"}
    assert record["commit"]
    assert record["details"] == {"more": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


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
    assert row["reason"] == "b", "of the process that is nearest to the median"
    assert row["curve"]["costs"] == [5]
    assert absent["value"] is None
    with pytest.raises(ValueError, match="b: its processes measured different things"):
        pool([process([1]), process([1], case="d")])


def test_what_was_not_run_says_why_and_meets_nothing():
    row = not_run("inference", "openvino-int8", "times faster", "openvino is\nnot installed", 7.0)
    assert met(row) is None
    assert line(row) == (
        "inference, openvino-int8: not run: openvino is not installed (times faster, target 7)"
    )


def test_one_process_keeps_its_figures_only_where_a_file_is_named(tmp_path, monkeypatch, capsys):
    for arguments in ([], ["--out", str(tmp_path / "x.json")]):
        assert not list(tmp_path.iterdir())
        monkeypatch.setattr(sys, "argv", ["x", *arguments])
        command("x", lambda _: [make_row("s", "c", "times", [1.7])], "")
        assert "s, c: 1.7" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["rows"][0]["value"]["median"] == 1.7


def test_a_users_mistake_is_one_line(monkeypatch):
    def measure(_):
        raise FileNotFoundError("HC18: folder /nowhere does not exist")

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit, match=r"^error: HC18: folder /nowhere does not exist$"):
        command("x", measure, "")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [("benchmarks/results/a.json", "abc"), ("docs/performance-a.png", "abc"), ("losses/a.py", "abc-dirty")],
)
def test_results_do_not_make_their_own_commit_dirty(changed, expected, tmp_path, monkeypatch):
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
