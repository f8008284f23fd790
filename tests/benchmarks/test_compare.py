"""bench-compare: verdicts against noise, turns of both sides, and one-line errors."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import _compare
from benchmarks._compare import check_out, figures, verdict
from benchmarks._record import Row


@pytest.mark.parametrize(
    ("base", "now", "better", "expected"),
    [
        ([5.0, 5.1, 5.2], [4.0, 4.2, 4.1], "higher", "worse"),
        ([5.0, 5.1, 5.2], [4.0, 5.05, 4.1], "higher", "same"),  # one round overlaps
        ([5.0, 5.01, 5.02], [4.97, 4.98, 4.99], "higher", "same"),  # apart, but by less than 3 %
        ([5.0, 5.1, 5.2], [6.0, 6.2, 6.1], "higher", "better"),
        ([5.0, 5.1, 5.2], [6.0, 6.2, 6.1], "lower", "worse"),
        ([0.0, 0.0], [1.0, 1.0], "lower", "same"),
        ([], [1.0, 1.0], "lower", "one side"),
    ],
)
def test_verdicts(base, now, better, expected):
    assert verdict(base, now, better) == expected


def test_noise_alone_is_rarely_called_a_change():
    rng = np.random.default_rng(0)
    verdicts = [verdict(*rng.normal(10, 2, (2, 5)).tolist(), "higher") for _ in range(2000)]
    assert sum(v != "same" for v in verdicts) / 2000 < 3 / 126


def test_figures_are_those_of_the_table_and_our_seconds(monkeypatch, tmp_path):
    rows = [Row("s", "c", "m", [1, 2, 6], seconds={"ours": [3, 4], "authors": [9]}), Row("s", "gpu", "m", [])]
    monkeypatch.setattr(_compare, "measure", lambda *_, **__: rows)
    assert figures("x", tmp_path) == {("s, c: m", "higher"): 2.0, ("s, c: seconds of ours", "lower"): 3.5}


def compare(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    _compare.main()


@pytest.mark.parametrize("now", [1.0, 0.5])
def test_both_sides_run_in_turns_and_worse_figures_fail(now, monkeypatch, capsys):
    order = []

    def measured(name, tree):
        side = "now" if tree == _compare.ROOT else "base"
        order.append(side)
        return {("s, c: m", "higher"): now if side == "now" else 1.0, (f"only {side}", "higher"): 1.0}

    monkeypatch.setattr(_compare, "figures", measured)
    monkeypatch.setattr(_compare, "check_out", lambda *_: None)
    if now == 1.0:
        compare(monkeypatch, "HEAD", "loss_speed", "--rounds=3")
        assert order == ["base", "now", "now", "base", "base", "now"]
        assert capsys.readouterr().out.splitlines() == [
            "same     1-1 -> 1-1 s, c: m", "one side 1-1 -> none only base", "one side none -> 1-1 only now",
        ]  # fmt: skip
    else:
        with pytest.raises(SystemExit, match=r"^error: 1 figures became worse than HEAD$"):
            compare(monkeypatch, "HEAD", "loss_speed", "--rounds=3")


def test_a_stage_that_fails_or_has_no_figures_is_an_error(monkeypatch):
    def fails(name, tree):
        raise subprocess.CalledProcessError(1, name)

    monkeypatch.setattr(_compare, "check_out", lambda *_: None)
    for measured, error in ((fails, "not compared with HEAD"), (lambda *_: {}, "nothing to compare")):
        monkeypatch.setattr(_compare, "figures", measured)
        with pytest.raises(SystemExit, match=f"^error: loss_speed: {error}"):
            compare(monkeypatch, "HEAD")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["HEAD", "--rounds=2"], "--rounds=2 is too few"),
        (["HEAD", "lost"], "argument NAME: no such benchmark lost"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, error, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        compare(monkeypatch, *arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {error}")


def test_a_base_gets_todays_benchmarks_and_an_unknown_one_is_one_line(tmp_path):
    check_out("HEAD", tmp_path / "base")
    assert (tmp_path / "base" / "losses" / "__init__.py").is_file()
    assert (tmp_path / "base" / "benchmarks" / "_compare.py").is_file()
    with pytest.raises(SystemExit, match=r"^error: BASE=no-such-commit: "):
        check_out("no-such-commit", tmp_path / "none")
