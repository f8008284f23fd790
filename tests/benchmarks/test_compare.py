"""A regression is told from noise, and what cannot be compared is said in a line."""

import sys

import numpy as np
import pytest

from benchmarks import _compare
from benchmarks._compare import check_out, compare, show, verdict
from benchmarks._record import make_row


@pytest.mark.parametrize(
    ("base", "now", "better", "expected"),
    [
        ([5.0, 5.1, 5.2], [4.0, 4.2, 4.1], "higher", "worse"),
        ([5.0, 5.1, 5.2], [4.0, 5.05, 4.1], "higher", "same"),  # one round reaches into the other side
        ([5.0, 5.01, 5.02], [4.97, 4.98, 4.99], "higher", "same"),  # apart, but by less than 3 %
        ([5.0, 5.1, 5.2], [6.0, 6.2, 6.1], "higher", "better"),
        ([5.0, 5.1, 5.2], [6.0, 6.2, 6.1], "lower", "worse"),
        ([0.0, 0.0], [1.0, 1.0], "lower", "same"),
    ],
)
def test_verdicts(base, now, better, expected):
    assert verdict(base, now, better) == expected


def test_noise_alone_is_rarely_called_a_change():
    rng = np.random.default_rng(0)
    verdicts = [verdict(*rng.normal(10, 2, (2, 5)), "higher") for _ in range(2000)]
    assert sum(v != "same" for v in verdicts) / 2000 < 3 / 126


def test_both_sides_run_in_turns(tmp_path, monkeypatch):
    order = []

    def run(name, tree, out, quick):
        order.append(tree.name)
        slow = tree.name == "now"
        ways = {"ours": [2.0 if slow else 1.0], "authors": [2.0 if slow else 1.0]}
        rows = [make_row("s", "c", "times faster", [1.0], seconds=ways)]
        return [*rows, make_row("s", f"new {slow}", "m", [1.0])]

    monkeypatch.setattr(_compare, "run_once", run)
    found = compare("loss_speed", {"base": tmp_path / "base", "now": tmp_path / "now"}, 3, True)
    assert order == ["base", "now", "now", "base", "base", "now"]
    assert [(figure["key"][1:], figure["verdict"]) for figure in found] == [
        (("c", "times faster"), "same"),
        (("c", "seconds of ours"), "worse"),  # both ways became slower: the ratio does not see it
        (("new False", "m"), "only one side"),
        (("new True", "m"), "only one side"),
    ]
    assert show(found[2]) == "only in the base: s, new False: m"
    assert show(found[3]) == "only in the working tree: s, new True: m"


def test_fewer_than_three_rounds_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "HEAD", "--rounds=2"])
    with pytest.raises(SystemExit):
        _compare.main()
    assert capsys.readouterr().err.startswith("error: --rounds=2 tells nothing from noise; take 3 or more")


def test_help_names_what_is_compared_without_names(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit):
        _compare.main()
    assert (
        "Without names it compares loss_speed, image_pipeline and plane_evaluation" in capsys.readouterr().out
    )
    assert _compare.DEFAULT == ["loss_speed", "image_pipeline", "plane_evaluation"]


def test_an_unknown_commit_is_an_error_of_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="BASE=no-such-commit: "):
        check_out("no-such-commit", tmp_path / "base")
    monkeypatch.setattr(sys, "argv", ["x", "no-such-commit"])
    with pytest.raises(SystemExit, match="error: BASE=no-such-commit"):
        _compare.main()


def test_a_base_gets_todays_benchmarks(tmp_path):
    check_out("HEAD", tmp_path / "base")
    assert (tmp_path / "base" / "losses" / "fused.py").is_file()
    assert (tmp_path / "base" / "benchmarks" / "_compare.py").is_file()


def test_a_benchmark_that_fails_in_the_base_says_why(tmp_path, capsys):
    (tmp_path / "tree" / "benchmarks").mkdir(parents=True)
    (tmp_path / "tree" / "benchmarks" / "broken.py").write_text(
        "raise SystemExit('this base lacks losses')\n"
    )
    assert _compare.run_once("broken", tmp_path / "tree", tmp_path / "out.json", True) is None
    assert "broken: cannot run in tree: this base lacks losses" in capsys.readouterr().out


def test_a_relative_hc18_root_is_found_from_another_tree(tmp_path, monkeypatch, capsys):
    (tmp_path / "tree" / "benchmarks").mkdir(parents=True)
    (tmp_path / "tree" / "benchmarks" / "says.py").write_text(
        "import os\nraise SystemExit(os.environ['HC18_ROOT'])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HC18_ROOT", "heads")
    _compare.run_once("says", tmp_path / "tree", tmp_path / "out.json", True)
    assert f"cannot run in tree: {tmp_path / 'heads'}" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [None, [{"stage": "s", "case": "c", "measure": "m", "value": None}]])
def test_nothing_to_compare_is_a_failure(rows, monkeypatch):
    monkeypatch.setattr(_compare, "run_once", lambda *_: rows)
    monkeypatch.setattr(sys, "argv", ["x", "HEAD", "loss_speed", "gpu_step"])
    with pytest.raises(SystemExit, match=r"^error: not compared with HEAD: loss_speed, gpu_step$"):
        _compare.main()


@pytest.mark.parametrize("names", [["loss_speed", "gpu_step"], []])
@pytest.mark.parametrize(("slower", "worse"), [(1.0, ""), (0.5, "1 figures became worse than HEAD; ")])
def test_a_stage_that_could_not_be_compared_is_a_failure_beside_the_rest(
    names, slower, worse, monkeypatch, capsys
):
    def run(name, tree, *_):
        row = make_row("s", "c", "m", [1.0 if tree.name == "base" else slower])
        return [row] if name == "loss_speed" else None

    monkeypatch.setattr(_compare, "run_once", run)
    monkeypatch.setattr(sys, "argv", ["x", "HEAD", *names])
    lost = "gpu_step" if names else "image_pipeline, plane_evaluation"
    with pytest.raises(SystemExit, match=f"^error: {worse}not compared with HEAD: {lost}$"):
        _compare.main()
    assert "s, c: 1-1 -> " in capsys.readouterr().out


def test_all_that_is_compared_and_no_worse_is_no_failure(monkeypatch):
    monkeypatch.setattr(_compare, "run_once", lambda *_: [make_row("s", "c", "m", [1.0])])
    monkeypatch.setattr(sys, "argv", ["x", "HEAD"])
    _compare.main()
