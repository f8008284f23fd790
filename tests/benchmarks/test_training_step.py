"""The share outside the towers is told with what is left of it on a ready batch."""

import pytest

from benchmarks._step_parts import StepTimes
from benchmarks.training_step import batch_reading, between, fit, outside_rows, training_records


def times(total, towers):
    found = StepTimes()
    found.total, found.parts = [total] * 3, [{"towers": towers}] * 3
    return found


def test_a_missed_target_says_what_a_ready_batch_leaves(monkeypatch):
    monkeypatch.setattr("benchmarks.training_step.told_apart", lambda _: "loss 1.0%")
    monkeypatch.setattr("benchmarks.training_step.usable_cores", lambda: 2)
    found = [(times(1.0, 0.95), 0.9), (times(1.0, 0.95), 0.9)]
    monkeypatch.setattr(StepTimes, "outside", lambda _: 0.05)
    beyond, _ = outside_rows("c", found, "", [times(0.96, 0.9), times(0.96, 0.9)], [0.14, 0.16])
    assert beyond["value"]["median"] == pytest.approx(0.1)
    # 0.06 of the 0.96 s that the step takes on a ready batch are not the towers' 0.9.
    assert beyond["reason"].endswith(
        "; reading a batch alone costs the cores 7.5% of the step; on a ready batch without workers 6.2% are left"
    )
    without, _ = outside_rows("c", found, "")
    assert "ready batch" not in without["reason"]
    assert "reading" not in without["reason"]


def test_a_training_is_held_against_its_towers_before_and_after_it():
    clock = iter([0.8, 1.0])
    live = times(1.5, 1.0)
    assert between(lambda: next(clock), lambda: live) == (live, pytest.approx(0.9))


def test_reading_a_batch_takes_time_of_a_core(tmp_path, monkeypatch):
    monkeypatch.delenv("HC18_ROOT", raising=False)
    records, _ = training_records(tmp_path, 4)
    assert 0 < batch_reading(records, tmp_path, 2) < 60


def test_a_ready_batch_is_never_waited_for_and_every_step_is_timed(tmp_path, monkeypatch):
    monkeypatch.delenv("HC18_ROOT", raising=False)
    records, _ = training_records(tmp_path, 4)
    found = fit("live", records, tmp_path, 3, 2, 0, False, warm=1, ready=True)
    assert len(found.total) == 3
    assert all(parts["towers"] > 0 for parts in found.parts)
