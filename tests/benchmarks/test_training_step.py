"""The share outside the towers is told with what is left of it on a ready batch."""

import pytest

from benchmarks._step_parts import StepTimes
from benchmarks.training_step import fit, outside_rows, training_records


def times(total, towers):
    found = StepTimes()
    found.total, found.parts = [total] * 3, [{"towers": towers}] * 3
    return found


def test_a_missed_target_says_what_a_ready_batch_leaves(monkeypatch):
    monkeypatch.setattr("benchmarks.training_step.told_apart", lambda _: "loss 1.0%")
    live, alone = [times(1.0, 0.95), times(1.0, 0.95)], [0.9, 0.9]
    monkeypatch.setattr(StepTimes, "outside", lambda _: 0.05)
    beyond, _ = outside_rows("c", live, alone, "", [times(0.96, 0.9), times(0.96, 0.9)])
    assert beyond["value"]["median"] == pytest.approx(0.1)
    # 0.06 of the 0.96 s that the step takes on a ready batch are not the towers' 0.9.
    assert beyond["reason"].endswith("; on a ready batch without workers 6.2% are left")
    without, _ = outside_rows("c", live, alone, "")
    assert "ready batch" not in without["reason"]


def test_a_ready_batch_is_never_waited_for_and_every_step_is_timed(tmp_path, monkeypatch):
    monkeypatch.delenv("HC18_ROOT", raising=False)
    records, _ = training_records(tmp_path, 4)
    found = fit("live", records, tmp_path, 3, 2, 0, False, warm=1, ready=True)
    assert len(found.total) == 3
    assert all(parts["towers"] > 0 for parts in found.parts)
