import numpy as np
import pytest

from metrics.subgroups import age_band, subgroup_scores, thirds


def test_each_group_is_scored_on_its_own_rows(monkeypatch):
    monkeypatch.setattr("metrics.subgroups.SMALLEST", 2)
    values = np.arange(8.0)
    groups = ["b", "a", "b", None, "a", "b", "a", "c"]
    result = subgroup_scores(groups, lambda rows: {"mean": float(values[rows].mean())})
    assert list(result) == ["a", "b", "c"]
    assert result["a"] == {"count": 3, "mean": pytest.approx((1 + 4 + 6) / 3)}
    assert result["b"] == {"count": 3, "mean": pytest.approx((0 + 2 + 5) / 3)}
    assert result["c"] == {"count": 1}


@pytest.mark.parametrize(
    ("weeks", "band"),
    [
        (13.9, None),
        (14, "14-20 weeks"),
        (19.99, "14-20 weeks"),
        (20, "20-26 weeks"),
        (40.9, "32-41 weeks"),
        (41, None),
    ],
)
def test_age_bands(weeks, band):
    assert age_band(weeks) == band


def test_thirds_divide_a_sample_by_rank_and_are_named_by_their_ends():
    values = np.array([300.0, 110.0, 120.0, 200.0, 210.0, 290.0, 130.0])
    low, middle, high = "110 to 130 mm", "130 to 210 mm", "210 to 300 mm"
    assert thirds(values, "mm") == [high, low, low, middle, middle, high, low]
