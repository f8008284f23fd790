"""Scores by subgroup: a good mean can hide a machine on which a model fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

SMALLEST = 10  # a score of fewer samples is mostly chance
RESAMPLES = 1000  # of a subgroup's bootstrap interval: there are many groups, and two digits suffice

AGE_BANDS_WEEKS: tuple[tuple[int, int], ...] = ((14, 20), (20, 26), (26, 32), (32, 41))


def subgroup_scores(
    groups: Sequence[str | None],
    score: Callable[[NDArray[np.int64]], Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    """Score every group of samples separately: group -> ``count`` and, from 10 samples on, scores; sorted by name.

    Args:
        groups: Group of each sample, N names; None for samples of no known group, which are left out.
        score: Takes row numbers and returns scores by name.
    """
    results: dict[str, dict[str, float]] = {}
    for name in sorted({group for group in groups if group is not None}):
        rows = np.array([row for row, group in enumerate(groups) if group == name], dtype=np.int64)
        results[name] = {"count": len(rows)} | (dict(score(rows)) if len(rows) >= SMALLEST else {})
    return results


def age_band(ga_weeks: float) -> str | None:
    """Return the band of an age: ``14-20 weeks`` from 14 to under 20, None outside all bands."""
    for low, high in AGE_BANDS_WEEKS:
        if low <= ga_weeks < high:
            return f"{low}-{high} weeks"
    return None


def thirds(values: NDArray[np.float64], unit: str) -> list[str]:
    """Return the third of the sample that each value [N] is in, named by its ends: ``101 to 176 mm``."""
    ends = np.quantile(values, [0, 1 / 3, 2 / 3, 1])
    third = np.searchsorted(ends[1:3], values)
    return [f"{ends[part]:.0f} to {ends[part + 1]:.0f} {unit}" for part in third]
