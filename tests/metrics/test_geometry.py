"""Geometry of embedding spaces, against the definitions and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from scipy.stats import entropy, pearsonr
from torch.nn.functional import normalize

from metrics.geometry import class_distance_ratio, effective_rank, linear_cka, logit_correlation


@pytest.fixture
def embeddings():
    return torch.tensor(np.random.default_rng(0).normal(size=(40, 6)))


def naive_cka(x, y):
    """From the N x N kernels, as the definition has it, not from the features."""
    count = len(x)
    centre = np.eye(count) - np.ones((count, count)) / count
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    return np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))


def test_cka_equals_the_kernel_form(embeddings):
    other = torch.tensor(np.random.default_rng(1).normal(size=(40, 9))) + embeddings[:, :1]
    assert linear_cka(embeddings, other) == pytest.approx(
        naive_cka(embeddings.numpy(), other.numpy()), abs=1e-12
    )


def test_cka_ignores_rotation_scale_and_shift(embeddings):
    rotation = torch.linalg.qr(torch.tensor(np.random.default_rng(2).normal(size=(6, 6)))).Q
    assert linear_cka(embeddings, 3 * embeddings @ rotation + 5) == pytest.approx(1.0)
    assert math.isnan(linear_cka(embeddings, torch.ones(40, 2)))


def test_effective_rank_equals_the_entropy_of_singular_values(embeddings):
    values = np.linalg.svd(embeddings.numpy() - embeddings.numpy().mean(0), compute_uv=False)
    assert effective_rank(embeddings) == pytest.approx(math.exp(entropy(values)), abs=1e-9)


def test_effective_rank_counts_equal_directions():
    corners = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(corners) == pytest.approx(4.0)
    line = torch.arange(5.0)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-6)
    assert math.isnan(effective_rank(torch.ones(3, 2)))


def test_class_distance_ratio_equals_all_pairs(embeddings):
    unit = normalize(embeddings, dim=1)
    labels = list(np.random.default_rng(3).choice(["a", "b", "c"], 40))
    distance = squareform(pdist(unit.numpy(), "cosine"))
    upper = np.triu(np.ones((40, 40), dtype=bool), 1)
    same = np.asarray(labels)[:, None] == np.asarray(labels)[None, :]
    expected = distance[upper & ~same].mean() / distance[upper & same].mean()
    assert class_distance_ratio(unit, labels) == pytest.approx(expected, abs=1e-9)


def test_class_distance_ratio_without_pairs():
    unit = torch.eye(3)
    assert math.isnan(class_distance_ratio(unit, ["a", "a", "a"]))
    assert math.isnan(class_distance_ratio(unit, ["a", "b", "c"]))


def logits(seed, size=9):
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed))


def test_both_parts_are_pearsons_correlation():
    student, teacher = logits(0), logits(1)
    cells = [(i, j) for i in range(9) for j in range(9)]
    for part, chosen in zip(
        logit_correlation(student, teacher),
        ([c for c in cells if c[0] == c[1]], [c for c in cells if c[0] != c[1]]),
        strict=True,
    ):
        a, b = ([float(x[c]) for c in chosen] for x in (student, teacher))
        assert part == pytest.approx(pearsonr(a, b).statistic, abs=1e-6)


def test_scale_and_bias_of_a_model_do_not_matter():
    student, teacher = logits(2), logits(3)
    plain = logit_correlation(student, teacher)
    assert logit_correlation(7 * student - 3, 0.1 * teacher + 9) == pytest.approx(plain, abs=1e-5)
    assert logit_correlation(teacher, teacher) == pytest.approx((1.0, 1.0))


def test_repelled_off_diagonal_pairs_have_negative_correlation():
    teacher = logits(4)
    student = -teacher
    student.diagonal().copy_(teacher.diagonal())
    assert logit_correlation(student, teacher) == pytest.approx((1.0, -1.0))


def test_excluded_pairs_do_not_count():
    student, teacher = logits(5), logits(6)
    excluded = torch.zeros(9, 9, dtype=torch.bool)
    excluded[0, 1] = excluded[1, 0] = True
    expected = logit_correlation(student, teacher, excluded)
    student[0, 1] = student[1, 0] = 1e6
    assert logit_correlation(student, teacher, excluded) == pytest.approx(expected)
    assert logit_correlation(student, teacher)[1] != pytest.approx(expected[1])


def test_constant_logits_have_no_correlation():
    assert all(math.isnan(part) for part in logit_correlation(torch.ones(4, 4), logits(7, 4)))
