import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from metrics.growth_chart import (
    COEFFICIENTS,
    gestational_age_weeks,
    head_circumference_mm,
    within_chart,
)


@pytest.mark.parametrize(("weeks", "median"), [(14, 97.9), (20, 174.6), (30, 279.2), (40, 340.5)])
def test_median_agrees_with_the_published_table(weeks, median):
    # Kiserud et al. 2017, table of head circumference centiles, to its rounding.
    assert head_circumference_mm(weeks) == pytest.approx(median, abs=2.0)


@pytest.mark.parametrize("centile", [2.5, 50.0, 97.5])
def test_equals_the_formula_term_by_term(centile):
    for weeks in (14.0, 17.57, 25.0, 38.857):
        terms = [b * math.pow(weeks, power) for power, b in enumerate(COEFFICIENTS[centile])]
        assert head_circumference_mm(weeks, centile) == pytest.approx(math.exp(math.fsum(terms)), rel=1e-13)


def test_centiles_keep_their_order_at_every_age():
    weeks = np.arange(14 * 7, 41 * 7) / 7
    low, middle, high = (head_circumference_mm(weeks, c) for c in (2.5, 50.0, 97.5))
    assert (low < middle).all()
    assert (middle < high).all()


@given(st.lists(st.floats(9.0, 400.0), min_size=1, max_size=20))
def test_inverse_agrees_with_a_scalar_root_finder(hcs):
    def reference(hc):
        return brentq(lambda t: float(head_circumference_mm(t)) - hc, 0.0, 45.0, xtol=1e-12)

    highest = float(head_circumference_mm(45.0))
    hcs = [min(hc, highest) for hc in hcs]
    assert gestational_age_weeks(hcs) == pytest.approx([reference(hc) for hc in hcs], abs=1e-8)


def test_inverse_keeps_shape_and_nan():
    weeks = gestational_age_weeks([[100.0, np.nan], [250.0, 300.0]])
    assert weeks.shape == (2, 2)
    assert np.isnan(weeks[0, 1])
    assert not np.isnan(weeks[1]).any()


@pytest.mark.parametrize("hc", [0.0, -3.0, 5.0, 4000.0])
def test_inverse_refuses_what_the_curve_does_not_reach(hc):
    with pytest.raises(ValueError, match=r"no age has a median head circumference of .* mm; the curve runs"):
        gestational_age_weeks([200.0, hc])


def test_unknown_centile_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"no centile 10.0; choose one of \[2.5, 50.0, 97.5\]"):
        head_circumference_mm(20, 10.0)


def test_ends_of_the_range_count_as_within():
    # At the places of a vector of the same length: NumPy may round a scalar otherwise.
    low, high = head_circumference_mm([24] * 5, 2.5)[1], head_circumference_mm([24] * 5, 97.5)[3]
    measured = [low - 1e-9, low, (low + high) / 2, high, high + 1e-9]
    assert within_chart(measured, [24] * 5).tolist() == [False, True, True, True, False]
