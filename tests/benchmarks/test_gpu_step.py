"""The GPU benchmark's code runs, on a CPU with small towers: its figures say nothing here."""

import pytest
import torch

from benchmarks import gpu_step
from benchmarks._material import phantom_towers


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    for name, value in {"DEVICE": "cpu", "COMPILE": False, "STEPS": 1}.items():
        monkeypatch.setattr(gpu_step, name, value)


def test_both_ways_train_their_own_student():
    pairs = phantom_towers(), phantom_towers()
    before = [[p.detach().clone() for p in pair[0].parameters()] for pair in pairs]
    rows = gpu_step.step_rows(*pairs, B=4, rounds=1)
    assert [row.case.split(", ")[-1] for row in rows] == ["live", "teacher cache"]
    assert all(row.median > 0 for row in rows)
    for pair, old in zip(pairs, before, strict=True):
        assert not all(map(torch.equal, pair[0].parameters(), old))


def test_validity_is_timed_in_the_default_precision_and_in_half(monkeypatch):
    seen = []
    monkeypatch.setattr(gpu_step, "age_embeddings", lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    rows = gpu_step.validity_rows(phantom_towers()[0])
    assert seen == [False] * 4 + [True] * 4
    assert [row.target for row in rows] == [10.0, None]
