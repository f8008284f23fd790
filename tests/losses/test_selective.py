"""What SRKD is for: signs of gradients, and identities that hold for any batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from losses import CoupledKDLoss, Embeddings, SRKDLoss
from losses.batch import JointBatch
from losses.distributions import (
    diagonal_cross_entropy,
    matched_cross_entropy,
    off_diagonal_cross_entropy,
    standardize,
    teacher_and_student,
)
from tests.losses.loss_cases import make_batch, make_teacher

batches = st.fixed_dictionaries(
    {"B": st.integers(2, 12), "seed": st.integers(0, 1000), "scale": st.floats(1.0, 100.0)}
)


def test_a_negative_weight_repels_from_the_teachers_confusions_and_not_from_the_pairs():
    """One gradient step on free logits, as the paper's figure of the method argues."""
    generator = torch.Generator().manual_seed(0)
    B = 6
    z = torch.randn(B, B, dtype=torch.float64, generator=generator, requires_grad=True)
    p = torch.softmax(2 * torch.randn(B, B, dtype=torch.float64, generator=generator), dim=1)
    p = 0.5 * p + 0.5 * torch.eye(B, dtype=torch.float64)
    own = torch.eye(B, dtype=torch.bool)

    def q_after_step(weight):
        log_q = torch.log_softmax(z, dim=1)
        loss = diagonal_cross_entropy(p, log_q, 0) + weight * off_diagonal_cross_entropy(p, log_q, 0)
        (gradient,) = torch.autograd.grad(loss, z)
        return torch.softmax(z.detach() - 0.1 * gradient, dim=1)

    before = torch.softmax(z.detach(), dim=1)
    after = q_after_step(-0.8)
    confusion = p.masked_fill(own, 0).argmax(dim=1, keepdim=True)
    assert (after.gather(1, confusion) < before.gather(1, confusion)).all()
    assert (after.diagonal() > before.diagonal()).all()
    imitating = q_after_step(2.0)
    assert (imitating.gather(1, confusion) > after.gather(1, confusion)).all()


@pytest.mark.parametrize("weight", [-0.8, 2.0])
def test_through_the_embeddings_the_sign_of_the_weight_moves_the_confusions(weight):
    student, teacher = make_batch(B=8, scale=5.0), make_teacher(B=8)
    loss = SRKDLoss(off_diagonal_weight=weight, contrastive_weight=0.0)
    leaves = (student.image, student.text)
    gradients = torch.autograd.grad(loss(student, teacher)["off_diagonal"] * weight, leaves)
    moved = [x.detach() - 1e-3 * g for x, g in zip(leaves, gradients, strict=True)]
    before = loss(student, teacher)["off_diagonal"]
    after = loss(Embeddings(*moved, student.logit_scale), teacher)["off_diagonal"]
    assert (after > before) == (weight < 0)


@settings(deadline=None, max_examples=30)
@given(batches)
def test_both_parts_at_weight_one_are_the_coupled_cross_entropy(batch):
    student, teacher = make_batch(**batch, grad=False), make_teacher(batch["B"], batch["seed"] + 1)
    result = SRKDLoss(off_diagonal_weight=1.0, contrastive_weight=0.0)(student, teacher)
    coupled = CoupledKDLoss(contrastive_weight=0.0)(student, teacher)["distillation"]
    entropy = torch.stack(
        [
            torch.special.entr(p).sum(1).mean()
            for p, _ in teacher_and_student(JointBatch(student), JointBatch(teacher), 5.0)
        ]
    ).mean()
    assert_close(result["total"], coupled + entropy, rtol=1e-10, atol=1e-10)
    assert coupled >= -1e-12


@settings(deadline=None, max_examples=30)
@given(batches)
def test_the_order_of_the_pairs_does_not_matter(batch):
    student, teacher = make_batch(**batch, grad=False), make_teacher(batch["B"], batch["seed"] + 1)
    order = torch.randperm(batch["B"], generator=torch.Generator().manual_seed(batch["seed"]))

    def shuffled(x):
        return Embeddings(x.image[order], x.text[order], x.logit_scale, None, x.caption_id[order])

    loss = SRKDLoss(off_diagonal_weight=-0.4, multi_positive=True, mask_duplicates=True)
    for name, value in loss(student, teacher).items():
        assert_close(loss(shuffled(student), shuffled(teacher))[name], value, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(-200, 200))
def test_adding_a_constant_to_a_row_of_logits_changes_nothing(seed, constant):
    generator = torch.Generator().manual_seed(seed)
    z, t = (torch.randn(4, 9, dtype=torch.float64, generator=generator) for _ in range(2))
    p = torch.softmax(t, dim=1)
    for term in (diagonal_cross_entropy, off_diagonal_cross_entropy):
        plain = term(p, torch.log_softmax(z, 1), 2)
        shifted = term(p, torch.log_softmax(z + constant, 1), 2)
        assert_close(shifted, plain, rtol=1e-9, atol=1e-9)
    assert_close(
        matched_cross_entropy(torch.log_softmax(z + constant, 1), 2),
        matched_cross_entropy(torch.log_softmax(z, 1), 2),
        rtol=1e-9,
        atol=1e-9,
    )
    assert_close(standardize(3 * z + constant), standardize(z), rtol=1e-7, atol=1e-7)


def test_a_student_equal_to_its_teacher_has_no_divergence():
    teacher = make_teacher(B=7, scale=6.0)
    student = Embeddings(teacher.image, teacher.text, teacher.logit_scale / 5)
    assert_close(
        CoupledKDLoss(contrastive_weight=0.0)(student, teacher)["distillation"],
        torch.zeros((), dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )


def test_a_constant_row_of_logits_has_a_finite_standardised_gradient():
    z = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.log_softmax(standardize(z), 1)[0, 0], z)
    assert torch.isfinite(gradient).all()


def test_masking_duplicates_removes_exactly_those_pairs():
    student, teacher = make_batch(grad=False), make_teacher()  # captions 0 and 3 are equal
    whole = SRKDLoss()(student, teacher)["off_diagonal"]
    masked = SRKDLoss(mask_duplicates=True)(student, teacher)["off_diagonal"]
    removed = sum(
        -(p[i, j] * log_q[i, j]) / 5 / 2
        for p, log_q in teacher_and_student(JointBatch(student), JointBatch(teacher), 5.0)
        for i, j in ((0, 3), (3, 0))
    )
    assert_close(whole - masked, removed)
    assert_close(SRKDLoss()(student, teacher)["duplicate_rate"].item(), 2 / 5)
