from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from metrics import composite_score
from metrics.benchmarks import BENCHMARKS, eight_class_interval

unit = st.floats(0, 1)


@given(unit, unit, st.floats(0, 100))
def test_all_three_benchmarks(planes, subplanes, validity):
    expected = ((5 * planes + 3 * subplanes) / 8 + validity / 100) / 2
    score = composite_score({"planes": planes, "subplanes": subplanes, "hc18": validity})
    assert score == pytest.approx(expected, abs=1e-12)


def test_only_the_named_benchmarks_count():
    assert composite_score({"hc18": 42.0}) == pytest.approx(0.42)
    assert composite_score({"planes": 0.8, "subplanes": 0.4}) == pytest.approx((5 * 0.8 + 3 * 0.4) / 8)
    assert composite_score({"planes": 0.8}) == pytest.approx(0.8)
    assert composite_score({"subplanes": 0.4, "hc18": 60.0}) == pytest.approx(0.5)


def test_nothing_or_unknown_is_an_error():
    with pytest.raises(ValueError, match="no scores"):
        composite_score({})
    with pytest.raises(ValueError, match="femur"):
        composite_score({"femur": 1.0})


def test_the_eight_class_interval_is_one_draw_over_both_benchmarks():
    rng = np.random.default_rng(5)
    parts = []
    for classes, absent, count in ((["a", "b", "c", "d", "e"], ["x", "y"], 60), (["t", "u", "v"], [], 30)):
        true = rng.choice(classes, count)
        predicted = np.where(rng.random(count) < 0.6, true, rng.choice(classes + absent, count))
        parts.append((true.tolist(), predicted.tolist()))
    truth = np.array(parts[0][0] + parts[1][0])
    guess = np.array(parts[0][1] + parts[1][1])
    draws, scores = np.random.default_rng(42), []
    for _ in range(60):
        rows = draws.choice(90, size=90, replace=True)
        labels = sorted(set(truth))
        scores.append(f1_score(truth[rows], guess[rows], labels=labels, average="macro", zero_division=0))
    expected = tuple(np.percentile(scores, [2.5, 97.5]))
    assert eight_class_interval(parts, resamples=60) == pytest.approx(expected, abs=1e-12)


def test_a_name_in_both_benchmarks_is_two_classes():
    alone = eight_class_interval([(["a", "b"], ["a", "b"]), (["c"], ["d"])], resamples=50)
    assert eight_class_interval([(["a", "b"], ["a", "b"]), (["a"], ["b"])], resamples=50) == alone


def test_a_head_circumference_of_another_picture_is_no_benchmark_of_heads():
    heads = BENCHMARKS["hc18"]
    for plane, included in ((None, True), ("brain", True), ("femur", False)):
        record = SimpleNamespace(corpus="hc18", plane=plane, hc_mm=170.0, others={})
        assert heads.includes(record) is included
