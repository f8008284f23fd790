"""The weight's zero crossing, the epoch of a step and what the evaluations of each phase found."""

import numpy as np
import pandas as pd
import pytest

from experiments.report.read_run import FinishedRun, read_run
from experiments.report.training import SCORES, dynamics, epoch_of, series, training_panels, zero_crossing


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


def test_a_checkpoint_that_another_metric_selected_has_no_circle(make_run):
    run = read_run(make_run())
    panel = training_panels(run)[SCORES]
    assert panel.selected is not None
    assert panel.curves[0].label == "composite, selects"
    run.record["selection"]["monitor"] = "val/loss/total"
    panel = training_panels(run)[SCORES]
    assert panel.selected is None
    assert panel.curves[0].label == "composite"


def test_a_run_without_schedule_has_no_phase(make_run):
    found = dynamics(read_run(make_run("no-kd", weights=(1.0, 1.0))))
    assert found.crossing is None
    assert not found.repels
    assert {point.phase for point in found.evaluations} == {""}


def test_epoch_of_a_step(make_run):
    run = read_run(make_run())
    assert epoch_of(run, 0) == 1
    assert epoch_of(run, 50) == pytest.approx(3)  # 8 epochs of 25 steps
    assert epoch_of(FinishedRun(run.folder, run.record, run.history, {}), 50) is None


def test_of_a_step_logged_twice_the_later_entry_counts(make_run):
    run = read_run(make_run())
    again = pd.DataFrame({"step": [5, 10], "epoch": [0, 0], "train/loss/total": [50.0, 100.0]})
    joined = FinishedRun(
        run.folder, run.record, pd.concat([run.history, again], ignore_index=True), run.config
    )
    steps, values = series(joined, "train/loss/total")
    assert list(steps) == list(range(0, 200, 5))
    assert list(values[1:3]) == [50.0, 100.0]


def test_scores_in_percent_are_drawn_as_shares_and_so_is_the_teachers(make_run):
    run = read_run(make_run())
    run.history["val/teacher/hc18/validity"] = 85.0
    drawn = {curve.label: curve for curve in training_panels(run)[SCORES].curves}
    (validity,) = (curve for label, curve in drawn.items() if label.endswith(" (share)"))
    logged = run.history["val/hc18/validity"].dropna()
    assert validity.values.tolist() == pytest.approx([value / 100 for value in logged])
    assert validity.reference == pytest.approx(0.85)
