"""The controls of SRKD against naive loops, and against SRKD where they change nothing."""

import operator
from dataclasses import replace

import pytest
import torch

from losses import SRKDControlLoss, SRKDLoss
from losses.selective import shuffled_off_diagonal
from tests.losses.loss_cases import make_batch, make_teacher
from tests.losses.naive_losses import decoupled


def test_without_a_change_it_is_srkd():
    student, teacher = make_batch(), make_teacher()
    for weight in (2.0, -0.8, 0.0):
        ours = SRKDControlLoss(off_diagonal_weight=weight)(student, teacher)
        theirs = SRKDLoss(off_diagonal_weight=weight, kernel="plain")(student, teacher)
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=0)


def test_shuffling_keeps_the_diagonal_and_each_rows_values():
    p = torch.softmax(torch.randn(4, 9, dtype=torch.float64), dim=1)
    torch.manual_seed(3)
    shuffled = shuffled_off_diagonal(p, first_row=2)
    assert torch.equal(shuffled.diagonal(offset=2), p.diagonal(offset=2))
    assert torch.equal(shuffled.sort(dim=1).values, p.sort(dim=1).values)
    assert not torch.equal(shuffled, p)


def test_every_order_of_a_row_is_drawn():
    p = torch.tensor([[0.5, 0.3, 0.2]])
    torch.manual_seed(0)
    seen = {tuple(shuffled_off_diagonal(p, 0)[0].tolist()) for _ in range(40)}
    assert len(seen) == 2


def test_shuffled_targets_are_still_repelled_from():
    student, teacher = make_batch(), make_teacher()
    torch.manual_seed(0)
    shuffled = SRKDControlLoss(shuffle=True)(student, teacher)
    plain = SRKDLoss(kernel="plain")(student, teacher)
    torch.testing.assert_close(shuffled["diagonal"], plain["diagonal"])
    assert shuffled["off_diagonal"] != plain["off_diagonal"]


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("mask_duplicates", [False, True])
def test_repulsion_spares_near_captions_and_imitation_does_not(threshold, mask_duplicates):
    student, teacher = make_batch(grad=False), make_teacher()  # captions 0 and 3 are equal
    changes = {"exclude_above_cosine": threshold, "mask_duplicates": mask_duplicates}
    repelled = SRKDControlLoss(**changes, off_diagonal_weight=-0.8)(student, teacher)["off_diagonal"]

    def near(i, j):
        return float(teacher.text[i] @ teacher.text[j]) >= threshold

    _, expected = decoupled(student, teacher, 5.0, mask_duplicates=mask_duplicates, excluded=near)
    assert float(repelled) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)
    imitated = SRKDControlLoss(exclude_above_cosine=threshold, off_diagonal_weight=2.0)(student, teacher)
    whole = SRKDLoss(kernel="plain")(student, teacher)
    torch.testing.assert_close(imitated["off_diagonal"], whole["off_diagonal"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("held", ["same_class", "other_classes"])
def test_pairs_of_one_class_or_of_different_ones_keep_their_weight(held):
    student, teacher = make_batch(B=6, grad=False), make_teacher(B=6)
    classes = student.class_id.tolist()
    loss = SRKDControlLoss(held=held, held_weight=3.0, off_diagonal_weight=-0.8)
    result = loss(student, teacher)
    same, different = (
        float(
            decoupled(student, teacher, 5.0, excluded=lambda i, j, left=left: left(classes[i], classes[j]))[1]
        )
        for left in (operator.ne, operator.eq)
    )
    kept, scheduled = (same, different) if held == "same_class" else (different, same)
    assert float(result["held"]) == pytest.approx(kept, rel=1e-9)
    assert float(result["off_diagonal"]) == pytest.approx(scheduled, rel=1e-9)
    total = float(result["contrastive"] + result["diagonal"]) + 3.0 * kept - 0.8 * scheduled
    assert float(result["total"]) == pytest.approx(total, rel=1e-9)


def test_holding_pairs_needs_their_classes():
    with pytest.raises(ValueError, match="no class_id in the batch"):
        SRKDControlLoss(held="same_class")(replace(make_batch(), class_id=None), make_teacher())
    with pytest.raises(ValueError, match="held must be same_class, other_classes or null, not 'ages'"):
        SRKDControlLoss(held="ages")


def test_a_threshold_that_no_cosine_has_is_refused():
    with pytest.raises(ValueError, match="exclude_above_cosine"):
        SRKDControlLoss(exclude_above_cosine=2.0)


def test_rows_are_shuffled_independently():
    p = torch.zeros(400, 400)
    p[:, :8] = torch.arange(8.0)
    torch.manual_seed(0)
    largest = shuffled_off_diagonal(p, first_row=0).argmax(dim=1)
    assert len(largest.unique()) > 100


def test_a_subclass_with_targets_of_its_own_is_not_computed_by_the_fused_form():
    class Nothing(SRKDLoss):
        def targets(self, p, first_row):
            return torch.zeros_like(p)

    student, teacher = make_batch(B=8), make_teacher(B=8)
    assert float(Nothing()(student, teacher)["off_diagonal"]) == 0
    assert float(SRKDLoss()(student, teacher)["off_diagonal"]) > 0
