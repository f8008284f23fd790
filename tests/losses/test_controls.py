"""The controls of SRKD against naive loops, and against SRKD where they change nothing."""

import math
from dataclasses import replace

import pytest
import torch

from losses import Embeddings, SRKDControlLoss, SRKDLoss
from losses.selective import shuffled_off_diagonal
from tests.losses.loss_cases import make_batch, make_teacher


def embeddings(seed, rows=6, dim=5, scale=20.0):
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        torch.nn.functional.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)
        for _ in range(2)
    )
    return Embeddings(image.requires_grad_(), text.requires_grad_(), torch.tensor(scale, dtype=torch.float64))


def test_without_a_change_it_is_srkd():
    student, teacher = embeddings(0), embeddings(1)
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
    student, teacher = embeddings(0), embeddings(1)
    torch.manual_seed(0)
    shuffled = SRKDControlLoss(shuffle=True)(student, teacher)
    plain = SRKDLoss(kernel="plain")(student, teacher)
    torch.testing.assert_close(shuffled["diagonal"], plain["diagonal"])
    assert shuffled["off_diagonal"] != plain["off_diagonal"]


def naive_off_diagonal(student, teacher, temperature, left_out):
    def rows(model, first, second):
        return [[(model.logit_scale * torch.dot(a, b)).item() for b in second] for a in first]

    total, size = 0.0, len(student.image)
    for first, second in (("image", "text"), ("text", "image")):
        s = rows(student, getattr(student, first), getattr(student, second))
        t = rows(teacher, getattr(teacher, first), getattr(teacher, second))
        for i in range(size):
            p = [math.exp(x / temperature) for x in t[i]]
            q = [math.exp(x) for x in s[i]]
            for j in range(size):
                if i != j and not left_out(i, j):
                    total -= p[j] / sum(p) * math.log(q[j] / sum(q)) / size / 2
    return total


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.4, 1.0])
def test_repulsion_spares_near_captions_and_imitation_does_not(threshold):
    student, teacher = embeddings(0), embeddings(1)
    repelled = SRKDControlLoss(exclude_above_cosine=threshold, off_diagonal_weight=-0.8)(student, teacher)
    expected = naive_off_diagonal(
        student, teacher, 5.0, lambda i, j: torch.dot(teacher.text[i], teacher.text[j]).item() >= threshold
    )
    assert float(repelled["off_diagonal"]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    imitated = SRKDControlLoss(exclude_above_cosine=threshold, off_diagonal_weight=2.0)(student, teacher)
    whole = SRKDLoss(kernel="plain")(student, teacher)
    torch.testing.assert_close(imitated["off_diagonal"], whole["off_diagonal"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("held", ["same_class", "other_classes"])
def test_pairs_of_one_class_or_of_different_ones_keep_their_weight(held):
    classes = [1, 2, 1, 3, 2, 1]
    student, teacher = (replace(embeddings(seed), class_id=torch.tensor(classes)) for seed in (0, 1))
    loss = SRKDControlLoss(held=held, held_weight=3.0, off_diagonal_weight=-0.8)
    result = loss(student, teacher)
    same = naive_off_diagonal(student, teacher, 5.0, lambda i, j: classes[i] != classes[j])
    different = naive_off_diagonal(student, teacher, 5.0, lambda i, j: classes[i] == classes[j])
    kept, scheduled = (same, different) if held == "same_class" else (different, same)
    assert float(result["held"]) == pytest.approx(kept, rel=1e-9)
    assert float(result["off_diagonal"]) == pytest.approx(scheduled, rel=1e-9)
    total = float(result["contrastive"] + result["diagonal"]) + 3.0 * kept - 0.8 * scheduled
    assert float(result["total"]) == pytest.approx(total, rel=1e-9)


def test_holding_pairs_needs_their_classes():
    with pytest.raises(ValueError, match="no class_id in the batch"):
        SRKDControlLoss(held="same_class")(embeddings(0), embeddings(1))
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


def test_near_and_equal_captions_are_both_spared():
    s, t = make_batch(grad=False), make_teacher()  # captions 0 and 3 are equal
    cosines = t.text @ t.text.T
    threshold = float(cosines[1, 2]) - 1e-9
    changes = {"exclude_above_cosine": threshold, "mask_duplicates": True, "off_diagonal_weight": -0.8}
    found = SRKDControlLoss(**changes)(s, t)["off_diagonal"]
    expected = 0.0
    for zs, zt in ((s.image @ s.text.T, t.image @ t.text.T), (s.text @ s.image.T, t.text @ t.image.T)):
        p, log_q = torch.softmax(t.logit_scale * zt / 5, 1), torch.log_softmax(s.logit_scale * zs, 1)
        for i in range(5):
            for j in range(5):
                if i != j and {i, j} != {0, 3} and float(cosines[i, j]) < threshold:
                    expected -= float(p[i, j] * log_q[i, j]) / 5 / 2
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_a_subclass_with_targets_of_its_own_is_not_computed_by_the_fused_form():
    class Nothing(SRKDLoss):
        def targets(self, p, first_row):
            return torch.zeros_like(p)

    student, teacher = make_batch(B=8), make_teacher(B=8)
    assert float(Nothing()(student, teacher)["off_diagonal"]) == 0
    assert float(SRKDLoss()(student, teacher)["off_diagonal"]) > 0
