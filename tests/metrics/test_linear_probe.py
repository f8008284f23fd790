import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.preprocessing import StandardScaler

from metrics.linear_probe import fixed_test_probe, linear_probe


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
    with pytest.raises(ValueError, match="two or more classes and two or more patients"):
        linear_probe(np.zeros((2, 2)), ["a", "a"], ["p", "q"])
    with pytest.raises(ValueError, match="leaves one class to learn from"):
        linear_probe(np.zeros((3, 2)), ["a", "b", "a"], ["p", "q", "p"], seeds=[0, 1, 2, 3])


def halves(noise=6.0):
    """Training and test images of 25 patients each, mixed; the test images lie elsewhere and on another scale."""
    features, labels, patients = separable(150, noise=noise)
    is_test = [int(name.removeprefix("patient")) % 2 == 1 for name in patients]
    features[is_test] = 3 * features[is_test] + (2, 40)
    return features, labels, patients, is_test


def test_fixed_test_images_are_scored_by_fits_on_bootstraps_of_the_training_patients():
    features, labels, patients, is_test = halves()
    result = fixed_test_probe(features, labels, patients, is_test, seeds=range(4))

    def score(rows):
        x, y = np.array([features[row] for row in rows]), [labels[row] for row in rows]
        middle, spread = x.mean(axis=0), x.std(axis=0)
        fitted = LogisticRegression(max_iter=1000).fit((x - middle) / spread, y)
        scored = [row for row in range(150) if is_test[row]]
        guess = fitted.predict((features[scored] - middle) / spread)
        return f1_score([labels[row] for row in scored], guess, average="macro")

    training = [row for row in range(150) if not is_test[row]]
    people = sorted({patients[row] for row in training})
    assert len(people) == 25
    expected = []
    for seed in range(4):
        drawn = [people[place] for place in np.random.default_rng(seed).integers(25, size=25)]
        assert len(set(drawn)) < 25
        expected.append(score([row for person in drawn for row in training if patients[row] == person]))
    assert list(result["f1_by_seed"].values()) == pytest.approx(expected)
    assert result["f1"] == pytest.approx(np.mean(expected))
    assert result["f1_std"] == pytest.approx(np.std(expected, ddof=1))
    assert result["f1_std"] > 0
    assert result["f1_whole"] == pytest.approx(score(training))
    assert (result["n_train"], result["n_test"], result["total"]) == (75, 75, 150)
    assert (result["classes"], result["unseen"]) == (["brain", "femur", "heart"], [])


def test_a_patient_on_both_sides_is_named():
    features, labels, patients, is_test = halves()
    is_test[patients.index("patient7")] = False
    with pytest.raises(ValueError, match=r"patient patient7 has training and test images.*1 such"):
        fixed_test_probe(features, labels, patients, is_test)


def without_femurs(on_test_side):
    """Clean images of three classes, where femurs look like brains; one side has no femur."""
    labels, patients = separable(150)[1:]
    places = {"brain": (5, 0), "femur": (5, 0), "heart": (-5, 0)}
    is_test = [int(name.removeprefix("patient")) % 2 == 1 for name in patients]
    kept = [row for row in range(150) if labels[row] != "femur" or is_test[row] != on_test_side]
    parts = ([places[name] for name in labels], labels, patients, is_test)
    return tuple([values[row] for row in kept] for values in parts)


def test_a_class_that_only_test_images_have_counts_as_zero():
    arguments = without_femurs(on_test_side=False)
    result = fixed_test_probe(*arguments)
    assert result["unseen"] == ["femur"]
    assert result["classes"] == ["brain", "femur", "heart"]
    tested = [label for label, test in zip(arguments[1], arguments[3], strict=True) if test]
    brains, femurs = tested.count("brain"), tested.count("femur")
    expected = (2 * brains / (2 * brains + femurs) + 0 + 1) / 3  # every femur is taken for a brain
    assert result["f1"] == pytest.approx(expected)
    assert result["f1_whole"] == pytest.approx(expected)


def test_a_class_that_only_training_images_have_takes_no_part_in_the_mean():
    features, labels, patients, is_test = without_femurs(on_test_side=True)
    result = fixed_test_probe(features, labels, patients, is_test)
    assert (result["classes"], result["unseen"]) == (["brain", "femur", "heart"], [])
    taught = [label for label, test in zip(labels, is_test, strict=True) if not test]
    assert taught.count("femur") > taught.count("brain") > 0, "so what looks like both is taken for a femur"
    assert result["f1_whole"] == (0 + 1) / 2, "no brain is found, every heart is; no third class in the mean"


def test_wrong_input_of_a_fixed_test():
    features, names = np.zeros((4, 2)), ["p", "q", "r", "s"]
    with pytest.raises(ValueError, match="has 0, 2 and 4"):
        fixed_test_probe(features, ["a", "b", "a", "b"], names, [False] * 4)
    with pytest.raises(ValueError, match="has 1, 1 and 3"):
        fixed_test_probe(features, ["a", "a", "a", "b"], names, [False, False, False, True])
    with pytest.raises(ValueError, match="has 2, 2 and 1"):
        fixed_test_probe(features, ["a", "b", "a", "b"], ["p", "p", "r", "s"], [False, False, True, True])
    with pytest.raises(ValueError, match="leaves one class to learn from"):
        fixed_test_probe(features, ["a", "b", "a", "b"], names, [False, False, True, True], seeds=range(9))


def test_a_fifth_of_the_patients_is_held_out():
    generator = np.random.default_rng(0)
    labels = np.array(["a", "b"] * 50)
    features = generator.normal(size=(100, 4)) + (labels == "a")[:, None] * 0.7
    patients = [str(image // 10) for image in range(100)]  # of ten, two are held out
    found = linear_probe(features, labels.tolist(), patients)["f1_by_seed"]
    for seed in range(5):
        split = GroupShuffleSplit(1, test_size=2, random_state=seed)
        fit, held = next(split.split(features, labels, patients))
        scaler = StandardScaler().fit(features[fit])
        probe = LogisticRegression(max_iter=1000).fit(scaler.transform(features[fit]), labels[fit])
        guesses = probe.predict(scaler.transform(features[held]))
        assert found[str(seed)] == pytest.approx(f1_score(labels[held], guesses, average="macro"))
