import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from metrics import AGES_DAYS, predicted_age_days
from metrics.biometry import ages_by_pixel_size, best_constant_age, biometry_scores, in_reference_range
from metrics.growth_chart import head_circumference_mm

LOW = (1.59317517131532, 0.29459800552433, -0.0073860372566707, 0.0000656951770216148)
MEDIAN = (2.09924879247164, 0.253373656106037, -0.00605647816678282, 0.0000514256072059917)
HIGH = (2.50074069629423, 0.220067854715719, -0.00493623111462443, 0.0000389066000946519)


def chart(b, days):
    t = days / 7
    return math.exp(b[0] + b[1] * t + b[2] * t * t + b[3] * t**3)


def naive_age(row):
    """The protocol in words: 15 most similar (earliest first among equals), by age, the middle one."""
    best = sorted(range(175), key=lambda i: (-row[i], i))[:15]
    return 14 * 7 + sorted(best)[7]


def naive_scores(similarity, hcs):
    ages, measured, valid = [], [], []
    for row, hc in zip(similarity, hcs, strict=True):
        if 100 <= hc <= 342:
            age = naive_age(row)
            ages.append(age)
            measured.append(hc)
            valid.append(1 if chart(LOW, age) <= hc <= chart(HIGH, age) else 0)
    generator = np.random.default_rng(seed=42)
    means = [generator.choice(np.array(valid), size=len(valid), replace=True).mean() for _ in range(10_000)]
    spearman = np.corrcoef(rankdata(ages), rankdata(measured))[0, 1]
    low, high = np.percentile(means, [2.5, 97.5]) * 100
    return 100 * sum(valid) / len(valid), sum(valid), len(valid), low, high, spearman


@pytest.fixture(scope="module")
def real_similarities(fetalclip_root):
    with np.load(fetalclip_root / "hc18_similarities.npz") as stored:
        return stored["similarity"], stored["head_circumference_mm"]


def test_fetalclip_on_hc18_is_679_of_814(real_similarities):
    similarity, hcs = real_similarities
    result = biometry_scores(predicted_age_days(torch.from_numpy(similarity)), hcs)
    assert (result["valid"], result["total"]) == (679, 814)
    assert result["validity"] == pytest.approx(83.415, abs=5e-4)


def test_every_number_equals_the_protocol_step_by_step(real_similarities):
    similarity, hcs = real_similarities
    result = biometry_scores(predicted_age_days(torch.from_numpy(similarity)), hcs)
    names = ("validity", "valid", "total", "validity_ci_low", "validity_ci_high", "spearman")
    expected = naive_scores(similarity.tolist(), hcs.tolist())
    assert [result[name] for name in names] == pytest.approx(list(expected), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_age_equals_the_naive_one_also_with_ties(seed, levels):
    rng = np.random.default_rng(seed)
    similarity = rng.integers(0, levels, size=(4, 175)).astype(np.float32)
    expected = [naive_age(row) for row in similarity.tolist()]
    assert predicted_age_days(torch.from_numpy(similarity)).tolist() == expected


def test_ages_run_from_14_weeks_0_days_to_38_weeks_6_days():
    assert len(AGES_DAYS) == 175
    assert divmod(AGES_DAYS[0], 7) == (14, 0)
    assert divmod(AGES_DAYS[-1], 7) == (38, 6)


def test_assessed_range_includes_both_ends():
    assert in_reference_range([99.999, 100.0, 342.0, 342.001]).tolist() == [False, True, True, False]


def test_constant_prediction_has_no_rank_correlation():
    assert biometry_scores([180, 180, 180], [150.0, 200.0, 250.0], resamples=10)["spearman"] == 0.0


def test_the_best_constant_age_on_hc18_is_20w1d_valid_for_481_of_814(real_similarities):
    hcs = real_similarities[1]
    age = best_constant_age(hcs)
    scores = biometry_scores(np.full(len(hcs), age), hcs)
    assert divmod(age, 7) == (20, 1)
    assert (scores["valid"], scores["total"]) == (481, 814)
    assert scores["validity"] == pytest.approx(59.091, abs=5e-4)
    assert scores["validity_ci_low"] < scores["validity"] < scores["validity_ci_high"]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(60, 380), min_size=1, max_size=12).filter(
        lambda hcs: any(100 <= h <= 342 for h in hcs)
    )
)
def test_the_best_constant_age_equals_a_search_over_all(hcs):
    counts = {
        days: sum(100 <= hc <= 342 and chart(LOW, days) <= hc <= chart(HIGH, days) for hc in hcs)
        for days in range(14 * 7, 39 * 7)
    }
    assert best_constant_age(hcs) == min(days for days, n in counts.items() if n == max(counts.values()))


def test_age_by_pixel_size_pools_adjacent_violators_and_extends_the_ends():
    # Medians of the chart at 20, 28 and 24 weeks, and a head out of range. 28 before 24 weeks is out of order: both
    # become their mean, 26 weeks; between two sizes the curve is straight.
    hcs = [chart(MEDIAN, 7 * weeks) for weeks in (20, 28, 24)] + [350.0]
    predicted = ages_by_pixel_size([0.1, 0.2, 0.3, 0.05], hcs, [0.02, 0.1, 0.15, 0.2, 0.3, 0.9])
    assert predicted.tolist() == [140, 140, 161, 182, 182, 182]


def test_the_error_in_weeks_is_against_the_charts_age_of_assessed_heads():
    hcs = [chart(MEDIAN, 140), chart(MEDIAN, 203), 90.0]
    assert biometry_scores([147, 189, 98], hcs, resamples=10)["mae_weeks"] == pytest.approx((1 + 2) / 2)


def test_intervals_over_patients_resample_all_heads_of_a_patient():
    hcs, ages = [176.0, 177.0, 178.0, 176.0, 95.0], [147, 147, 147, 250, 250]
    scores = biometry_scores(
        ages, hcs, patients=["a", "a", "a", "b", "c"]
    )  # 3 of a valid, 1 of b not, c not assessed
    assert (scores["validity_patient_ci_low"], scores["validity_patient_ci_high"]) == (0, 100)
    assert scores["validity_ci_low"] > 0  # all four images wrong: 0.4 % of the draws


def test_only_heads_out_of_range():
    with pytest.raises(ValueError, match="none of 2 images has a head circumference of 100-342 mm"):
        biometry_scores([100, 100], [50.0, 400.0])


def test_wrong_shape_and_not_finite():
    with pytest.raises(ValueError, match=r"must be \[N, 175\], not \[2, 174\]"):
        predicted_age_days(torch.zeros(2, 174))
    bad = torch.zeros(3, 175)
    bad[1, 4] = math.nan
    with pytest.raises(ValueError, match="row 1 are not finite"):
        predicted_age_days(bad)


def test_patients_of_unassessed_heads_do_not_shift_those_of_the_others():
    hc = [50.0, 400.0, *[float(head_circumference_mm(24))] * 4]  # the first two are not assessed
    ages = [0, 0, 168, 168, 260, 260]  # of the others two valid, two not
    found = biometry_scores(ages, hc, patients=["x", "y", "a", "a", "b", "b"])
    # One patient all right and one all wrong: a quarter of the resamples scores 0, another quarter 100.
    assert (found["validity_patient_ci_low"], found["validity_patient_ci_high"]) == (0.0, 100.0)
    found = biometry_scores(ages, hc, patients=["x", "y", "a", "b", "a", "b"])
    assert (found["validity_patient_ci_low"], found["validity_patient_ci_high"]) == (50.0, 50.0)


def test_two_heads_have_no_rank_correlation():
    assert biometry_scores([150, 170], [180.0, 210.0])["spearman"] == 0.0


def test_an_age_by_pixel_size_is_one_of_the_protocols():
    young, old = (float(head_circumference_mm(weeks)) for weeks in (14.1, 39.9))  # both are assessed
    assert ages_by_pixel_size([0.1, 0.3], [young, old], [0.3, 0.5]).tolist() == [AGES_DAYS[-1]] * 2
