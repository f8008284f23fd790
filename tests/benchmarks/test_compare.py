"""bench-compare: verdicts against noise, turns of both sides, and one-line errors."""

import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest

from benchmarks import _compare
from benchmarks._compare import check_out, run_once, verdict


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


@pytest.fixture
def compared(monkeypatch):
    """Run `main` with figures of a stub in place of benchmarks; return the order of sides."""

    def main(rounds, *names):
        order = []

        def run(name, side, tree, quick, figures):
            order.append(side)
            for title, value in rounds(name, side).items():
                figures["s", "c", title, "higher"][side].append(value)

        monkeypatch.setattr(_compare, "run_once", run)
        monkeypatch.setattr(_compare, "check_out", lambda *_: None)
        monkeypatch.setattr(sys, "argv", ["x", "HEAD", *names, "--rounds=3"])
        _compare.main()
        return order

    return main


def test_both_sides_run_in_turns_and_figures_of_one_side_are_named(compared, capsys):
    order = compared(lambda _, side: {"m": 1.0, f"only {side}": 1.0}, "loss_speed")
    assert order == ["base", "now", "now", "base", "base", "now"]
    assert capsys.readouterr().out.splitlines() == [
        "same     s, c: 1-1 -> 1-1 m", "one side s, c: 1-1 -> none only base", "one side s, c: none -> 1-1 only now",
    ]  # fmt: skip


@pytest.mark.parametrize("names", [["loss_speed", "gpu_step"], []])
@pytest.mark.parametrize(("slower", "worse"), [(1.0, ""), (0.5, "1 figures became worse than HEAD; ")])
def test_worse_figures_and_benchmarks_without_any_fail(names, slower, worse, compared):
    def rounds(name, side):
        return {"m": 1.0 if side == "base" else slower} if name == "loss_speed" else {}

    lost = "gpu_step" if names else "image_pipeline, plane_evaluation"
    with pytest.raises(SystemExit, match=f"^error: {worse}not compared with HEAD: {lost}$"):
        compared(rounds, *names)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["HEAD", "--rounds=2"], "error: --rounds=2 is too few to tell a change from noise; take 3 or more"),
        (["HEAD", "lost"], "error: no such benchmark lost"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    with pytest.raises(SystemExit):
        _compare.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(error)


def test_a_base_gets_todays_benchmarks_and_an_unknown_one_is_one_line(tmp_path):
    check_out("HEAD", tmp_path / "base")
    assert (tmp_path / "base" / "losses" / "__init__.py").is_file()
    assert (tmp_path / "base" / "benchmarks" / "_compare.py").is_file()
    with pytest.raises(SystemExit, match=r"^error: BASE=no-such-commit: "):
        check_out("no-such-commit", tmp_path / "none")


def test_a_benchmark_that_fails_in_the_base_names_its_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "tree" / "benchmarks").mkdir(parents=True)
    broken = "import os\nraise SystemExit(os.environ['HC18_ROOT'])\n"
    (tmp_path / "tree" / "benchmarks" / "broken.py").write_text(broken)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HC18_ROOT", "heads")  # relative to another folder than the tree
    run_once("broken", "base", tmp_path / "tree", True, defaultdict(dict))
    assert f"broken: cannot run in base: {tmp_path / 'heads'}" in capsys.readouterr().out


def test_the_seconds_of_our_ways_are_compared_too(tmp_path, monkeypatch):
    def run(command, **_):
        row = {"stage": "s", "case": "c", "measure": "m", "better": "higher", "value": {"median": 2.0}}
        row["seconds"] = {"ours": {"median": 1.0}, "authors": {"median": 2.0}}
        _compare.Path(command[-2]).write_text(_compare.json.dumps({"rows": [row, row | {"value": None}]}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    figures = defaultdict(lambda: {"base": [], "now": []})
    run_once("x", "base", tmp_path, True, figures)
    assert {title[2:]: sides["base"] for title, sides in figures.items()} == {
        ("m", "higher"): [2.0], ("seconds of ours", "lower"): [1.0],
    }  # fmt: skip
