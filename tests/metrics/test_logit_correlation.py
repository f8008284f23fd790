"""Correlation of two models' logits, against SciPy over the entries picked one by one."""

import math

import pytest
import torch
from scipy.stats import pearsonr

from metrics.logit_correlation import logit_correlation


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


def test_repelled_confusions_with_kept_matches_are_told_apart():
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


def test_matrices_that_are_not_square_or_alike_are_refused():
    with pytest.raises(ValueError, match=r"\[4, 5\]"):
        logit_correlation(torch.ones(4, 5), torch.ones(4, 5))
    with pytest.raises(ValueError, match="two"):
        logit_correlation(torch.ones(4, 4), torch.ones(3, 3))
