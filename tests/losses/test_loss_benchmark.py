"""The benchmark compares like with like, and runs."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch.testing import assert_close

from benchmarks import loss_speed
from benchmarks.baselines.loss_authors import srkd_loss
from losses import SRKDLoss
from tests.losses.loss_cases import make_batch, make_teacher


@pytest.mark.parametrize("weight", [2.0, -0.8])
def test_the_authors_way_has_the_gradients_of_ours(weight):
    student, teacher = make_batch(11, scale=20.0), make_teacher(11)
    inputs = (student.image, student.text, student.logit_scale)
    frozen = (teacher.image, teacher.text, teacher.logit_scale)
    theirs = torch.autograd.grad(srkd_loss(inputs, frozen, 5.0, weight), inputs)
    ours = torch.autograd.grad(SRKDLoss(off_diagonal_weight=weight)(student, teacher)["total"], inputs)
    for expected, gradient in zip(theirs, ours, strict=True):
        assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_the_benchmark_writes_its_rows(tmp_path, monkeypatch):
    out = tmp_path / "loss.json"
    monkeypatch.setattr(sys, "argv", ["x", "--batch-sizes", "32", "--repeats", "2", "--out", str(out)])
    loss_speed.main()
    result = json.loads(out.read_text())
    assert max(result["details"]["difference_float64"].values()) < 1e-12
    (details,) = result["details"]["batches"]
    assert details["batch"] == 32
    assert details["times_faster_than_authors"]["fused"]["median"] > 0
    assert len(result["rows"]) == 4
