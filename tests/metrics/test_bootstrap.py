import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from metrics.bootstrap import f1_interval, f1_of_confusion, mean_interval


def test_mean_interval_equals_one_choice_after_another():
    values = (np.arange(137) % 3 == 0).astype(int)
    generator = np.random.default_rng(42)
    means = [generator.choice(values, size=len(values), replace=True).mean() for _ in range(10_000)]
    assert mean_interval(values) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=1e-12)


def test_blocks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = mean_interval(values, resamples=1001)
    monkeypatch.setattr("metrics.bootstrap._DRAWS_AT_ONCE", 333)
    assert mean_interval(values, resamples=1001) == whole


def test_intervals_over_patients_equal_a_loop_over_resampled_patients():
    rng = np.random.default_rng(4)
    patients = rng.integers(0, 9, 40).astype(str).tolist()
    target, prediction = rng.integers(0, 3, 40), rng.integers(0, 4, 40)
    names = list(dict.fromkeys(patients))
    draws = np.random.default_rng(seed=42)
    means, scores = [], []
    for _ in range(60):
        drawn = [names[row] for row in draws.integers(0, len(names), len(names))]
        rows = [row for name in drawn for row in range(40) if patients[row] == name]
        means.append(np.mean(target[rows] == prediction[rows]))
        scores.append(
            f1_score(target[rows], prediction[rows], labels=range(3), average="macro", zero_division=0)
        )
    expected = tuple(np.percentile(means, [2.5, 97.5]))
    assert mean_interval(target == prediction, 60, patients) == pytest.approx(expected, abs=1e-12)
    expected = tuple(np.percentile(scores, [2.5, 97.5]))
    assert f1_interval(target, prediction, 4, 60, patients) == pytest.approx(expected, abs=1e-12)


def test_f1_interval_equals_sklearn_over_the_same_draws():
    rng = np.random.default_rng(3)
    target = rng.choice([0, 2, 3], size=40)
    prediction = np.where(rng.random(40) < 0.6, target, rng.integers(0, 5, 40))
    draws = np.random.default_rng(42)
    scores = []
    for _ in range(60):
        rows = draws.integers(0, 40, 40)
        scores.append(
            f1_score(target[rows], prediction[rows], labels=[0, 2, 3], average="macro", zero_division=0)
        )
    expected = tuple(np.percentile(scores, [2.5, 97.5]))
    assert f1_interval(target, prediction, 5, resamples=60) == pytest.approx(expected, abs=1e-12)


def test_f1_of_confusion_equals_sklearn():
    rng = np.random.default_rng(1)
    target, prediction = rng.integers(0, 4, 60), rng.integers(0, 5, 60)
    matrix = confusion_matrix(target, prediction, labels=range(6))
    expected = f1_score(target, prediction, labels=range(6), average=None, zero_division=0)
    assert f1_of_confusion(matrix) == pytest.approx(expected, abs=1e-12)
