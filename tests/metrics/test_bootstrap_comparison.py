"""Comparisons over seeds and patients against loops, simulated studies and a worked example."""

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import f1_score

from metrics.bootstrap import contrast, holm

CLASSES = 3


def compare(first, second, **settings):
    return contrast([(1, second), (-1, first)], **settings)


def confusions(target, predictions, patients):
    counts = np.zeros((len(predictions), patients.max() + 1, CLASSES, CLASSES), dtype=int)
    for seed, prediction in enumerate(predictions):
        for truth, guess, patient in zip(target, prediction, patients, strict=True):
            counts[seed, patient, truth, guess] += 1
    return counts


def classified(generator, seeds=4, images=90, skill=0.6):
    target = generator.integers(0, CLASSES, images)
    patients = np.sort(np.concatenate([np.arange(20), generator.integers(0, 20, images - 20)]))
    guesses = [
        np.where(
            generator.random((seeds, images)) < one, target, generator.integers(0, CLASSES, (seeds, images))
        )
        for one in (skill, skill + 0.2)
    ]
    return target, patients, guesses


def test_the_difference_of_f1_and_its_spread_are_those_of_a_loop():
    generator = np.random.default_rng(0)
    target, patients, (before, after) = classified(generator)

    def f1(truth, guess):
        hits = [((truth == c) & (guess == c)).sum() for c in range(CLASSES)]
        either = [(truth == c).sum() + (guess == c).sum() for c in range(CLASSES)]
        return np.mean([2 * hit / max(1, count) for hit, count in zip(hits, either, strict=True)])

    def difference(images, seeds):
        pairs = [[f1(target[images], one[seed][images]) for one in (before, after)] for seed in seeds]
        return float(np.mean([second - first for first, second in pairs]))

    found = compare(confusions(target, before, patients), confusions(target, after, patients))
    assert (found.seeds, found.patients) == (4, 20)
    assert found.value == pytest.approx(difference(np.arange(len(target)), range(4)))
    assert f1(target, before[0]) == pytest.approx(f1_score(target, before[0], average="macro"))
    drawn = []
    for _ in range(300):
        chosen = generator.integers(0, 20, 20)
        images = np.concatenate([np.flatnonzero(patients == patient) for patient in chosen])
        drawn.append([difference(images, [seed]) for seed in range(4)])
    between = np.var([difference(np.arange(len(target)), [seed]) for seed in range(4)], ddof=1) / 4
    shared = np.mean([np.cov(drawn, rowvar=False)[i, j] for i in range(4) for j in range(4) if i != j])
    # Half the interval is t times the standard error; t lies between 2.09 and 3.18, of 19 and 3 degrees of freedom.
    reach, least = (found.high - found.low) / 2, max(between + max(0, shared), np.mean(drawn, axis=1).var())
    assert 1.9 * least**0.5 < reach < 3.5 * least**0.5
    # The two quantiles of t that make the detectable effect: 0.86 and 2.09 or 0.98 and 3.18.
    assert 1.30 < found.detectable / reach < 1.42


def mean_squares(table):
    """Mean squares of seeds, patients and the rest of a table [S, P] by plain sums, as for an analysis of variance."""
    seeds, patients = len(table), len(table[0])
    whole = sum(map(sum, table)) / (seeds * patients)
    rows = [sum(row) / patients for row in table]
    columns = [sum(row[p] for row in table) / seeds for p in range(patients)]
    rest = sum(
        (table[s][p] - rows[s] - columns[p] + whole) ** 2 for s in range(seeds) for p in range(patients)
    )
    of_seeds, of_patients = (sum((one - whole) ** 2 for one in some) for some in (rows, columns))
    return (
        patients * of_seeds / (seeds - 1), seeds * of_patients / (patients - 1), rest / (seeds - 1) / (patients - 1)
    )  # fmt: skip


@pytest.mark.parametrize("spread", [0.8, 0.0])
def test_the_interval_is_that_of_an_analysis_of_variance_of_seeds_and_patients(spread):
    """With one image a patient a score is a mean, and the variance components have a closed form."""
    seeds, patients = 4, 150
    first, second = study(np.random.default_rng(5), seeds, 0.3, spread, images=1, patients=patients)
    table = (100.0 * (second - first)[..., 0]).tolist()
    of_seeds, of_patients, rest = mean_squares(table)
    shared = max(0, (of_patients - rest) / seeds / patients)
    between = max(of_seeds, rest) / seeds / patients
    assert (of_seeds > rest) == (spread > 0), "the second is at the bound"
    error = (shared + between) ** 0.5
    weighted = (shared * t.ppf(0.975, patients - 1) + between * t.ppf(0.975, seeds - 1)) / (shared + between)
    found = compare(first, second, resamples=20_000)
    assert (found.high - found.low) / 2 == pytest.approx(error * weighted, rel=0.03)


def test_intervals_of_few_patients_stay_within_what_differences_can_be():
    first = np.array([[[0, 2], [1, 2], [0, 2]]])  # right and all images of three patients
    second = np.array([[[2, 2], [2, 2], [0, 2]]])
    found = compare(first, second)
    assert found.value == pytest.approx(50)
    assert found.high == 100
    assert np.isnan(found.detectable), "not even the largest difference would be found"
    assert compare(second, first).low == -100


def study(generator, seeds, effect, spread_of_seeds, images=3, patients=40):
    """Counts [S, P, 2] of right and all images by two methods, whose skills vary with patient, seed and both."""
    size = (2, seeds, patients, images)
    skill = generator.normal(size=(patients, 1)) + generator.normal(size=(patients, images)) * 0.5
    skill = skill + generator.normal(size=(2, seeds, 1, 1)) * spread_of_seeds
    skill = skill + generator.normal(size=(2, 1, patients, 1)) * 0.3 + generator.normal(size=size) * 0.5
    skill[1] += effect
    right = (skill > 0).sum(axis=-1)
    return [np.stack([method, np.full_like(method, images)], axis=-1) for method in right]


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.5), (5, 0.0)])
def test_the_interval_covers_the_true_difference_and_p_values_are_honest(seeds, spread):
    """Both methods have one distribution, so the true difference is zero."""
    generator = np.random.default_rng(seeds)
    found = [compare(*study(generator, seeds, 0.0, spread), resamples=300) for _ in range(200)]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    # 95 % minus three standard errors of 200 studies is 0.90.
    assert covered >= 0.90
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(1 - covered)
    if (
        seeds == 5
    ):  # and the interval is no wider than that takes: 2 to 2.8 of the differences' own deviations
        reach = np.mean([one.high - one.value for one in found])
        assert 1.8 < reach / np.std([one.value for one in found]) < 3.0


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "least", "most"), [(3, 0.0, 0.06), (5, 0.02, 0.05)])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.2, 0.5])
def test_the_share_of_null_differences_below_five_percent_is_the_documented_one(seeds, least, most, spread):
    generator = np.random.default_rng(seeds)
    found = [compare(*study(generator, seeds, 0.0, spread), resamples=300) for _ in range(600)]
    share = np.mean([one.p < 0.05 for one in found])
    assert least - 0.01 < share < most + 0.01


def test_an_effect_of_the_detectable_size_is_found_four_times_in_five():
    generator = np.random.default_rng(1)
    found = [compare(*study(generator, 5, 0.55, 0.2), resamples=300) for _ in range(200)]
    true = np.mean([one.value for one in found])
    seen = np.mean([one.p < 0.05 for one in found])
    assert np.median([one.detectable for one in found]) == pytest.approx(true, rel=0.1), "chosen so"
    assert seen == pytest.approx(0.8, abs=0.1)


def test_intervals_of_f1_stay_within_one():
    target, patients = np.array([0, 1, 2] * 3), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    wrong, right = (target + 1) % CLASSES, np.where(patients < 2, target, (target + 1) % CLASSES)
    found = compare(*(confusions(target, [guess], patients) for guess in (wrong, right)))
    assert (found.value, found.high) == (pytest.approx(2 / 3), 1)
    assert np.isnan(found.detectable)


def test_as_many_patients_are_drawn_as_there_are():
    """Of two patients, all wrong and all right, the mean is 50, with a standard error of 70.7 / sqrt(2)."""
    found = contrast([(1, [[[0, 4], [4, 4]]])])
    assert found.p == pytest.approx(2 * t.sf(50 / (np.std([0, 100], ddof=1) / 2**0.5), 1), abs=0.03)


def test_three_patients_who_agree_are_no_certainty():
    """The sign test gives 2 * 0.5^3."""
    assert contrast([(1, [[[4, 4]] * 3])]).p == 0.25
    assert contrast([(1, [[[0, 4]] * 3])]).p == 1


def test_one_seed_gives_an_interval_over_patients():
    generator = np.random.default_rng(2)
    first, second = study(generator, 1, 0.5, 0.0, patients=80)
    found = compare(first, second)
    difference = (second[0, :, 0] - first[0, :, 0]) / first[0, :, 1]
    assert found.value == pytest.approx(100 * difference.mean())
    error = 100 * difference.std(ddof=1) / np.sqrt(80)
    assert (found.high - found.low) / 2 == pytest.approx(1.99 * error, rel=0.08)


def test_one_seed_and_one_patient_give_neither_interval_nor_p_value():
    found = compare([[[50, 100]]], [[[100, 100]]])
    assert found.value == 50
    assert np.isnan(found[1:5]).all()


def test_a_method_does_not_differ_from_itself():
    first, _ = study(np.random.default_rng(3), 3, 0.5, 0.5)
    found = compare(first, first)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert np.isnan(found.detectable), "without any spread nothing says what would be seen"


def test_swapping_the_methods_changes_the_sign():
    first, second = study(np.random.default_rng(4), 3, 0.5, 0.2)
    one, other = compare(first, second), compare(second, first)
    assert other.value == pytest.approx(-one.value)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert other.p == pytest.approx(one.p)


def test_holm_gives_the_worked_example():
    """0.01 * 4, 0.02 * 3 = 0.06, 0.03 * 2 = 0.06, and 0.04, raised to the 0.06 before it."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == pytest.approx([1, 1])
    assert holm([]).size == 0
    assert holm([np.nan, 0.03, 0.02]) == pytest.approx([np.nan, 0.04, 0.04], nan_ok=True)


def test_a_class_that_is_only_predicted_takes_no_part_in_f1():
    target, patients = [0, 0, 1, 1, 0, 1], np.array([0, 0, 1, 1, 2, 2])
    old = [[0, 1, 1, 0, 0, 1], [1, 0, 1, 1, 0, 0]]
    new = [[0, 0, 1, 2, 0, 1], [0, 2, 1, 1, 0, 1]]
    scores = [
        np.mean([f1_score(target, one, labels=[0, 1], average="macro") for one in guesses])
        for guesses in (old, new)
    ]
    found = compare(confusions(target, old, patients), confusions(target, new, patients))
    assert found.value == pytest.approx(scores[1] - scores[0])


def test_the_smallest_detectable_difference_follows_students_t():
    """Of five patients, four degrees of freedom: the error's reach at 97.5 % and the power of 80 %."""
    new = np.array([[[6, 20], [9, 20], [7, 20], [10, 20], [8, 20]]])
    old = np.array([[[5, 20], [7, 20], [8, 20], [8, 20], [9, 20]]])
    found = compare(old, new)
    reach = t.ppf(0.975, 4)
    ratio = found.detectable / ((found.high - found.low) / 2)
    assert ratio == pytest.approx((reach + t.ppf(0.8, 4)) / reach, rel=1e-6)
