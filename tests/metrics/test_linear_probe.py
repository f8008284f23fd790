import numpy as np
import pytest

from metrics.linear_probe import linear_probe


def separable(count, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    labels = rng.choice(["brain", "femur", "heart"], count)
    centres = {"brain": (5, 0), "femur": (0, 500), "heart": (-5, 0)}  # unequal scales, as features have
    features = np.array([centres[name] for name in labels]) + rng.normal(size=(count, 2)) * (
        noise,
        50 * noise,
    )
    return features, list(labels), [f"patient{i // 3}" for i in range(count)]


def test_separable_features_are_read_perfectly():
    result = linear_probe(*separable(150))
    assert result["f1"] == 1.0
    assert result["f1_std"] == 0.0
    assert list(result["f1_by_seed"]) == ["0", "1", "2", "3", "4"]
    assert result["total"] == 150


def test_mean_and_deviation_are_those_of_the_seeds():
    result = linear_probe(*separable(150, noise=6.0), seeds=range(4))
    scores = list(result["f1_by_seed"].values())
    assert result["f1"] == pytest.approx(sum(scores) / 4)
    assert result["f1_std"] == pytest.approx((sum((s - result["f1"]) ** 2 for s in scores) / 3) ** 0.5)
    assert 0 < result["f1_std"] < 0.2
    assert linear_probe(*separable(150, noise=6.0), seeds=range(4)) == result


def test_no_patient_is_on_both_sides():
    # The label is written into the patient alone: with leaking patients a probe would read it.
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 5)
    codes = rng.normal(size=(60, 60))
    labels = [str(label) for label in np.repeat(rng.integers(0, 2, 60), 5)]
    result = linear_probe(codes[patients], labels, [str(p) for p in patients], seeds=range(8))
    assert result["f1"] < 0.65


def test_wrong_input():
    with pytest.raises(ValueError, match="2 features, 1 labels and 2 patients"):
        linear_probe(np.zeros((2, 2)), ["a"], ["p", "q"])
    with pytest.raises(ValueError, match="two or more classes, two or more patients"):
        linear_probe(np.zeros((2, 2)), ["a", "a"], ["p", "q"])
    with pytest.raises(ValueError, match="leaves one class to learn from"):
        linear_probe(np.zeros((3, 2)), ["a", "b", "a"], ["p", "q", "p"], seeds=[0, 1, 2, 3])
