"""The loss benchmark: its baseline computes the same gradients, and the products are counted."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import loss_speed
from benchmarks._authors import srkd_loss
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


@pytest.mark.parametrize(
    ("way", "count"),
    [
        ("authors", 14),
        ("fused", 4),
        ("chunked", 6),
        ("four products", 4),
        ("six products", 6),
    ],
)
def test_the_matrix_products_of_each_way(way, count, monkeypatch):
    """The counts that docs/performance.md states; one block, so that each product is one call."""
    monkeypatch.setattr("losses.kernels.fused.Problem.height", lambda self: len(self.image))
    products = Products()
    run_way = loss_speed.make_ways(64, torch.float64)[way]
    with products:
        run_way()
    assert products.count == count


class Products(TorchDispatchMode):
    """Count matrix products; matrix-vector ones, which the sums are, do not count."""

    KINDS = ("aten::mm", "aten::addmm", "aten::addmm_")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name in self.KINDS
        return func(*args, **(kwargs or {}))
