import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics import composite_score

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


def test_order_does_not_matter():
    forward = composite_score({"planes": 0.7, "subplanes": 0.3, "hc18": 10.0})
    assert composite_score({"hc18": 10.0, "subplanes": 0.3, "planes": 0.7}) == forward


def test_nothing_or_unknown_is_an_error():
    with pytest.raises(ValueError, match="no scores"):
        composite_score({})
    with pytest.raises(ValueError, match="femur"):
        composite_score({"femur": 1.0})
