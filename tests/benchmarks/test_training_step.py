"""The share of a training step beyond its towers."""

import numpy as np
import pytest

from benchmarks._material import head_records
from benchmarks.training_step import authors, beyond_row, fit, towers_alone


def test_a_missed_target_names_what_a_ready_batch_leaves():
    seconds = {"live": np.array([1.0, 1.0]), "towers alone": np.array([0.9, 0.9])}
    row = beyond_row("c", seconds, "")
    assert row["value"]["median"] == pytest.approx(0.1)
    assert row["reason"] == ""
    row = beyond_row("c", seconds | {"ready": np.array([0.96, 0.96])}, "")
    # 0.06 of the 0.96 s of a step on a ready batch are not the towers' 0.9 s.
    assert row["reason"] == "on a ready batch without workers 6.2% are left"


def test_every_way_is_timed(tmp_path, monkeypatch):
    monkeypatch.delenv("HC18_ROOT", raising=False)
    records, _ = head_records(tmp_path, 8)
    for ready in (True, False):
        assert fit("live", records, tmp_path, 2, 2, 0, False, warm=2, ready=ready) > 0
    assert towers_alone(records, 1, 2) > 0
    assert authors(records, 1, 2, 0) > 0
