import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from metrics.calibration import (
    age_similarity_gap,
    conformal_quantile,
    cross_fitted_confidence,
    fit_temperature,
    max_minus_mean_logit,
    profile_age_days,
    profile_interval,
    rejection_scores,
    rejection_threshold,
    reliability,
)


def naive_ece(confidence, correct, bins):
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        chosen = [i for i, p in enumerate(confidence) if low < p <= high or (number == 0 and p == 0)]
        if chosen:
            accuracy = sum(correct[i] for i in chosen) / len(chosen)
            mean = sum(confidence[i] for i in chosen) / len(chosen)
            total += len(chosen) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_equals_the_definition(bins, monkeypatch):
    monkeypatch.setattr("metrics.calibration.BINS", bins)
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.01, 0.99, 300)
    correct = rng.random(300) < confidence**2
    result = reliability(confidence, correct)
    assert result["ece"] == pytest.approx(naive_ece(confidence, correct, bins), abs=1e-12)
    library = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct).int(), n_bins=bins)
    if bins > 1:  # on a binary task the library measures the same gap
        assert result["ece"] == pytest.approx(float(library), abs=1e-6)
    assert sum(point["count"] for point in result["bins"]) == 300


def test_perfect_and_overconfident():
    assert reliability([1.0, 1.0], [True, True])["ece"] == 0.0
    assert reliability([1.0, 1.0, 0.0], [False, True, False])["ece"] == pytest.approx(1 / 3)


def test_curve_rises_and_leaves_out_empty_bins():
    curve = reliability([0.95, 0.05, 0.06], [True, False, False])["bins"]
    assert [point["count"] for point in curve] == [2, 1]
    assert curve[0]["confidence"] == pytest.approx(0.055)


def drawn(scale, count=4000, seed=0):
    """Logits whose classes were drawn with the probabilities that they state at temperature `scale`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 4)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = (chances.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return logits * scale, target


@pytest.mark.parametrize("scale", [0.3, 1.0, 7.0])
def test_the_temperature_that_made_the_classes_is_found(scale):
    assert fit_temperature(*drawn(scale)) == pytest.approx(scale, rel=0.08)


def test_fitting_on_other_patients_mends_an_overconfident_model():
    logits, target = drawn(scale=7.0)
    right = logits.argmax(axis=1) == target
    patients = [str(row // 4) for row in range(len(target))]
    stated = np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1)
    fitted = cross_fitted_confidence(logits, target, patients)
    assert reliability(stated, right)["ece"] > 0.1
    assert reliability(fitted, right)["ece"] < 0.03


def test_a_patient_never_sets_its_own_temperature():
    logits, target = drawn(scale=1.0, count=200)
    patients = ["a" if row < 100 else "b" for row in range(200)]
    before = cross_fitted_confidence(logits, target, patients)
    changed = target.copy()
    changed[:100] = (changed[:100] + 1) % 4  # the outcomes of one patient
    after = cross_fitted_confidence(logits, changed, patients)
    assert (before[:100] == after[:100]).all()
    assert (before[100:] != after[100:]).any()


def test_one_patient_alone_has_no_fitted_confidence():
    assert cross_fitted_confidence([[1.0, 0.0]], [0], ["only"]) is None


def test_the_lead_is_over_the_mean_of_all_classes():
    np.testing.assert_allclose(max_minus_mean_logit(np.array([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])), [2.0, 0.0])


def test_separated_scores_are_divided_in_the_middle():
    assert rejection_threshold([5.0, 4.0], [1.0, 2.0]) == pytest.approx(3.0)


def test_the_threshold_has_the_highest_balanced_accuracy():
    rng = np.random.default_rng(0)
    known, other = rng.normal(1, 1, 40), rng.normal(0, 1, 15)

    def balanced(threshold):
        return (known >= threshold).mean() + (other < threshold).mean()

    best = max(balanced(value) for value in np.linspace(-4, 5, 4001))
    found = rejection_threshold(known, other)
    assert balanced(found) == pytest.approx(best, abs=1e-12)
    scores = rejection_scores(known, other, found)
    assert scores["kept"] - scores["false_accept"] + 1 == pytest.approx(best, abs=1e-12)
    pairs = [(a > b) + 0.5 * (a == b) for a in known for b in other]
    assert scores["auroc"] == pytest.approx(np.mean(pairs), abs=1e-12)


@pytest.mark.parametrize(("known", "other"), [([1.0, 1.0], [1.0]), ([0.1, 0.2], [0.3, 0.4])])
def test_where_nothing_separates_the_threshold_is_finite_and_keeps_all(known, other):
    threshold = rejection_threshold(known, other)
    assert np.isfinite(threshold)
    assert rejection_scores(known, other, threshold)["kept"] == 1.0


def test_interval_and_drop_follow_their_definitions():
    rng = np.random.default_rng(1)
    ages, similarity = np.arange(98, 128), rng.normal(size=(7, 30))
    true = np.array([90.0, 98.0, 105.4, 110.0, 120.0, 127.0, 300.0])
    drops = age_similarity_gap(similarity, ages, true)
    for row, age, drop in zip(similarity, true, drops, strict=True):
        nearest = min(ages, key=lambda known: abs(known - age))
        assert drop == pytest.approx(row.max() - row[list(ages).index(nearest)], abs=1e-12)
        low, high = profile_interval(row[None], ages, 0.8)
        inside = [known for known, value in zip(ages, row, strict=True) if value >= row.max() - 0.8]
        assert (low[0], high[0]) == (min(inside), max(inside))
        low, high = profile_interval(row[None], ages, drop)
        assert low[0] <= nearest <= high[0]


def test_the_age_is_the_median_of_the_most_similar():
    similarity = np.array([[0.0, 5.0, 4.0, 1.0, 3.0]])
    assert profile_age_days(similarity, np.arange(10, 15), 3)[0] == 12
    assert profile_age_days(np.zeros((1, 5)), np.arange(10, 15), 3)[0] == 11  # the younger of equal ones


def test_a_new_score_is_covered_as_often_as_promised():
    # Of n + 1 exchangeable scores each is the new one as often as any other.
    scores = np.random.default_rng(2).permutation(50).astype(float)
    covered = [one <= conformal_quantile(np.delete(scores, place), 0.9) for place, one in enumerate(scores)]
    assert 0.9 <= np.mean(covered) < 0.9 + 1 / 50 + 1e-9
    assert conformal_quantile(range(8), 0.9) is None
    assert conformal_quantile(range(9), 0.9) == 8


def test_there_are_fifteen_bins_and_each_includes_its_upper_end():
    middles = (np.arange(15) + 0.5) / 15
    assert [one["count"] for one in reliability(middles, np.ones(15))["bins"]] == [1] * 15
    end = np.linspace(0, 1, 16)[6]
    assert [one["count"] for one in reliability([end - 0.01, end], [1, 1])["bins"]] == [2]


def test_a_true_age_is_rounded_to_the_nearest_day():
    gap = age_similarity_gap(np.array([[0.9, 0.1, 1.0]]), np.array([100, 101, 102]), np.array([100.6]))
    assert gap == pytest.approx([0.9])
