"""The zero crossing, phases and answers, on curves worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from experiments.report.read_run import Run, read_run
from experiments.report.training import dynamics, epoch_of, zero_crossing
from experiments.report.verdict import answers, reference_of, subject_of


def test_zero_crossing_lies_where_the_line_does():
    steps = np.arange(0, 101, 10)
    assert zero_crossing(steps, 2 - 2.8 * steps / 100) == pytest.approx(200 / 2.8)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 1, 1], None),
        ([-1, -1, -1], None),
        ([], None),
        (
            [2, 0, 0, -1],
            2.0,
        ),  # resting on zero is not repulsion yet; the line from 2 over three steps falls at 2
        ([1, -1, 1], 0.5),
        ([-1, 1, -3], 1.25),  # only the way down counts
    ],
)
def test_zero_crossing_of_odd_curves(weights, expected):
    assert zero_crossing(range(len(weights)), weights) == (
        None if expected is None else pytest.approx(expected)
    )


def test_dynamics_sort_evaluations_by_phase(make_run):
    found = dynamics(read_run(make_run(weights=(2.0, -0.8))))
    assert found.crossing == pytest.approx(200 * 2 / 2.8)
    assert [point.phase for point in found.evaluations] == ["attract"] * 5 + ["repel"] * 3
    assert found.best == found.evaluations[-1]
    assert found.last_before_repulsion() == found.evaluations[4]


def test_a_run_without_schedule_has_no_phase(make_run):
    found = dynamics(read_run(make_run("no-kd", weights=(1.0, 1.0))))
    assert found.crossing is None
    assert not found.repels
    assert {point.phase for point in found.evaluations} == {""}


def test_epoch_of_a_step(make_run):
    run = read_run(make_run())
    assert epoch_of(run, 0) == 1
    assert epoch_of(run, 50) == pytest.approx(3)  # 8 epochs of 25 steps


def test_one_run_does_not_claim_that_repulsion_helped(make_run):
    whether, where, when = answers([read_run(make_run(skill=5.0))])
    assert whether.short == "One run cannot say"
    assert not whether.tone
    assert "Longer training alone could explain" in " ".join(whether.sentences)
    assert "over its teacher" in where.sentences[0]
    assert when.short == "Best while repelling"


@pytest.mark.parametrize(
    ("skill", "rival", "short"),
    [(5.0, 0.6, "Yes, on these test patients"), (0.6, 5.0, "No, it cost accuracy here")],
)
def test_a_clear_difference_from_the_reference_is_said(make_run, skill, rival, short):
    runs = [
        read_run(make_run(skill=skill)),
        read_run(make_run("static-kd", skill=rival, weights=(1, 1), seed=5)),
    ]
    assert answers(runs)[0].short == short


def test_equal_runs_show_nothing(make_run):
    runs = [read_run(make_run(skill=3.0)), read_run(make_run("no-kd", skill=3.0, weights=(1, 1)))]
    whether, where, when = answers(runs)
    assert whether.short == "Not shown: within chance"
    assert where.short == "Nowhere notable"
    assert "not ahead of no-kd" in " ".join(when.sentences)


def test_static_distillation_is_the_preferred_reference(make_run):
    runs = [
        read_run(make_run("no-kd", weights=(1, 1))),
        read_run(make_run("srkd")),
        read_run(make_run("static-kd", weights=(1, 1))),
    ]
    assert subject_of(runs) is runs[1]
    assert reference_of(runs) is runs[2]


def test_a_checkpoint_from_before_the_crossing_is_called_out(make_run):
    run = read_run(make_run())
    history = run.history.copy()
    scores = history["val/composite"].dropna().index
    history.loc[scores[2], "val/composite"] = 0.99
    when = answers([Run(run.folder, run.record, pd.DataFrame(history), run.config)])[2]
    assert when.short == "Best before repulsion began"
    assert "never repelled" in " ".join(when.sentences)


@pytest.mark.parametrize(
    ("gain", "word"),
    [(0.1, "wider"), (-0.1, "narrower"), (0.0, "the same: repulsion changed little")],
)
def test_the_lead_before_the_crossing_is_told_from_that_after(make_run, gain, word):
    """Both runs rise alike; only what comes after the crossing may be put down to repulsion."""
    run, rival = read_run(make_run()), read_run(make_run("static-kd", weights=(1, 1)))
    history = run.history.copy()
    scored = history["val/composite"].dropna().index
    history.loc[scored, "val/composite"] += 0.05
    history.loc[scored[5:], "val/composite"] += gain
    when = answers([Run(run.folder, run.record, history, run.config), rival])[2]
    after = f"{0.05 + gain:+.3f}".replace("-", "\N{MINUS SIGN}")
    assert (
        f"Its lead over static-kd was +0.050 at the last evaluation before the crossing, {after} at the last: "
        f"{word}." in when.sentences
    )


def test_a_gain_without_evaluations_on_both_sides_cannot_be_dated(make_run):
    run, rival = read_run(make_run()), read_run(make_run("static-kd", weights=(1, 1)))
    early = run.history[run.history["epoch"] < 5]
    late = pd.concat([early[early["val/composite"].isna()], run.history[run.history["epoch"] >= 5]])
    when = answers([Run(run.folder, run.record, late, run.config), rival])[2]
    assert any("cannot be dated" in sentence for sentence in when.sentences)
