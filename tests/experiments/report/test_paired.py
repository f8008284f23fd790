"""Paired differences of two runs against a slow bootstrap with scikit-learn's F1."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from experiments.outcomes import contrast_outcomes, outcomes_of
from experiments.report.evidence import agreement, paired


def rows(target, prediction, patients):
    return [
        {"name": str(n), "patient": str(p), "target": t, "prediction": g, "correct": t == g}
        for n, (t, g, p) in enumerate(zip(target, prediction, patients, strict=True))
    ]


def joined(first, second):
    return paired({"samples": first}, {"samples": second})


def score_difference(first, second, **classes):
    """The second's score minus the first's, of one seed."""
    before, after = ({0: outcomes_of({"samples": samples} | classes)} for samples in (first, second))
    return contrast_outcomes((1, after), (-1, before))


@pytest.fixture
def pair():
    generator = np.random.default_rng(3)
    target = generator.choice(list("abc"), 60)
    patients = generator.integers(0, 20, 60)
    first = np.where(generator.random(60) < 0.5, target, generator.choice(list("abcx"), 60))
    second = np.where(generator.random(60) < 0.8, target, generator.choice(list("abcx"), 60))
    return rows(target, first, patients), rows(target, second, patients)


def macro_f1(samples):
    present = sorted({row["target"] for row in samples})
    return f1_score(
        [r["target"] for r in samples],
        [r["prediction"] for r in samples],
        labels=present,
        average="macro",
        zero_division=0,
    )


def test_the_difference_is_that_of_the_two_scores(pair):
    first, second = pair
    found = score_difference(first, second, classes="abcx")
    assert found.value == pytest.approx(macro_f1(second) - macro_f1(first))
    right = [100 * np.mean([row["correct"] for row in samples]) for samples in pair]
    assert score_difference(first, second).value == pytest.approx(right[1] - right[0])


def test_the_interval_resembles_a_slow_bootstrap_over_patients(pair):
    first, second = pair
    names = sorted({row["patient"] for row in first})
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        chosen = generator.choice(names, len(names))
        picked = [[row for name in chosen for row in samples if row["patient"] == name] for samples in pair]
        drawn.append(macro_f1(picked[1]) - macro_f1(picked[0]))
    found = score_difference(first, second, classes="abcx")
    reach = 2.093 * np.std(drawn)  # Student's t of 19 degrees of freedom; 400 draws tell the deviation to 4 %
    assert (found.high - found.value, found.value - found.low) == pytest.approx((reach, reach), rel=0.12)


def test_a_model_does_not_differ_from_itself(pair):
    found = score_difference(pair[0], pair[0], classes="abcx")
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_agreement_counts_every_assessed_image_once():
    first = rows("aabbc", "abbac", "11234")
    second = rows("aabbc", "aabaa", "11234")
    second[4]["assessed"] = first[4]["assessed"] = False
    found = agreement(joined(first, second))
    assert (len(found["both"]), len(found["neither"])) == (2, 1)
    assert [a["name"] for a, _ in found["gained"]] == ["1"]
    assert found["lost"] == []


def test_other_images_or_other_truth_are_not_the_same(pair):
    first, second = pair
    assert joined(first, second)
    assert joined(first, second[1:]) is None
    assert joined(first, [{**second[0], "target": "z"}, *second[1:]]) is None
    assert paired(None, {"samples": second}) is None
