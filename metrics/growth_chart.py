"""WHO fetal growth chart: head circumference by gestational age.

Source: Kiserud et al., "The World Health Organization Fetal Growth Charts: A Multinational Longitudinal
Study of Ultrasound Biometric Measurements and Estimated Fetal Weight", PLOS Medicine 14(1), 2017,
doi:10.1371/journal.pmed.1002220. Each centile is ``HC(t) = exp(b0 + b1 t + b2 t^2 + b3 t^3)`` with HC in mm
and t in completed weeks and their fractions. The chart was made for 14 to 40 weeks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LOWER, MEDIAN, UPPER = 2.5, 50.0, 97.5
COEFFICIENTS: dict[float, tuple[float, float, float, float]] = {
    LOWER: (1.59317517131532, 0.29459800552433, -0.0073860372566707, 0.0000656951770216148),
    MEDIAN: (2.09924879247164, 0.253373656106037, -0.00605647816678282, 0.0000514256072059917),
    UPPER: (2.50074069629423, 0.220067854715719, -0.00493623111462443, 0.0000389066000946519),
}
LOWEST_WEEKS, HIGHEST_WEEKS = 0.0, 45.0  # range of the inversion; the median rises throughout


def head_circumference_mm(ga_weeks: ArrayLike, centile: float = MEDIAN) -> Floats:
    """Return the chart's head circumference in mm at ages in weeks, for the centile 2.5, 50 or 97.5."""
    if centile not in COEFFICIENTS:
        raise ValueError(f"growth chart: no centile {centile}; choose one of {sorted(COEFFICIENTS)}")
    weeks = np.asarray(ga_weeks, dtype=np.float64)
    b0, b1, b2, b3 = COEFFICIENTS[centile]
    return np.asarray(np.exp(b0 + b1 * weeks + b2 * weeks**2 + b3 * weeks**3), dtype=np.float64)


def gestational_age_weeks(hc_mm: ArrayLike) -> Floats:
    """Return the age in weeks whose median is a head circumference in mm, accurate to 1e-9 weeks; NaN gives NaN.

    Ages below 14 and above 40 weeks extrapolate the chart.

    Raises:
        ValueError: A head circumference lies off the curve between 0 and 45 weeks.
    """
    target = np.asarray(hc_mm, dtype=np.float64)
    lowest, highest = head_circumference_mm([LOWEST_WEEKS, HIGHEST_WEEKS])
    outside = (target < lowest) | (target > highest)
    if outside.any():
        raise ValueError(
            f"growth chart: no age has a median head circumference of {target[outside].flat[0]:g} mm; "
            f"the curve runs from {lowest:.1f} to {highest:.1f} mm"
        )
    grid = np.arange(LOWEST_WEEKS, HIGHEST_WEEKS + 1)
    weeks = np.interp(target, head_circumference_mm(grid), grid)
    b0, b1, b2, b3 = COEFFICIENTS[MEDIAN]
    for _ in range(4):  # Newton, from within a day; each step doubles the correct digits
        excess = b0 + b1 * weeks + b2 * weeks**2 + b3 * weeks**3 - np.log(target)
        weeks = weeks - excess / (b1 + 2 * b2 * weeks + 3 * b3 * weeks**2)
    return np.asarray(weeks, dtype=np.float64)


def within_chart(hc_mm: ArrayLike, ga_weeks: ArrayLike) -> NDArray[np.bool_]:
    """Return whether head circumferences (mm, [N]) lie within the 2.5th-97.5th centile at ages (weeks, [N])."""
    measured = np.asarray(hc_mm, dtype=np.float64)
    lower = head_circumference_mm(ga_weeks, LOWER)
    upper = head_circumference_mm(ga_weeks, UPPER)
    return np.asarray((lower <= measured) & (measured <= upper))
