import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ellipe

from datamodules.phantom.geometry import Ellipse, Probe, ellipse_circumference, fit_ellipse_to

RATIOS = st.floats(0.6, 1.0)


@given(st.floats(1, 500), RATIOS)
def test_circumference_agrees_with_the_elliptic_integral(a: float, ratio: float) -> None:
    exact = 4 * a * ellipe(1 - ratio**2)
    assert ellipse_circumference(a, a * ratio) == pytest.approx(exact, rel=1e-6)


@given(st.floats(20, 2000), RATIOS)
def test_fitted_axes_have_the_circumference_and_the_ratio(circumference: float, ratio: float) -> None:
    a, b = fit_ellipse_to(circumference, ratio)
    assert b / a == pytest.approx(ratio)
    assert 4 * a * ellipe(1 - ratio**2) == pytest.approx(circumference, rel=1e-6)


def test_distance_and_normal_agree_with_the_nearest_outline_point() -> None:
    ellipse = Ellipse(50.0, 40.0, 30.0, 22.0, 0.4)
    outline = ellipse.outline(count=20000)
    rng = np.random.default_rng(0)
    near = outline[::1000] + rng.uniform(-1.5, 1.5, (20, 2))
    distance, nx, ny = ellipse.signed_distance(near[:, 0], near[:, 1])
    gaps = near[:, None] - outline[None]
    nearest = np.linalg.norm(gaps, axis=2).argmin(axis=1)
    expected = np.linalg.norm(near - outline[nearest], axis=1)
    np.testing.assert_allclose(np.abs(distance), expected, atol=0.06)
    away = near - [ellipse.cx, ellipse.cy]
    assert np.all(nx * away[:, 0] + ny * away[:, 1] > 0), "normals point outwards"
    np.testing.assert_allclose(np.hypot(nx, ny), 1, atol=1e-6)


def test_half_extent_is_the_bounding_box_of_the_outline() -> None:
    ellipse = Ellipse(0.0, 0.0, 30.0, 22.0, 0.7)
    np.testing.assert_allclose(ellipse.half_extent, ellipse.outline(count=100000).max(axis=0), atol=1e-3)


def test_scan_conversion_inverts_the_beam_grid() -> None:
    probe = Probe(x=60.0, y=-30.0, r_min=25.0, r_max=140.0, half_angle=0.6, tilt=0.08)
    samples, beams = 90, 70
    x, y = probe.beam_grid(samples, beams)
    beam, sample = probe.scan_conversion(120, 110, samples, beams)
    for row in range(0, samples, 7):
        for column in range(0, beams, 7):
            px, py = x[row, column], y[row, column]
            if 1 < px < 118 and 1 < py < 108:
                i, j = math.floor(py), math.floor(px)
                assert abs(beam[i : i + 2, j : j + 2].mean() - column) < 1.5
                assert abs(sample[i : i + 2, j : j + 2].mean() - row) < 1.5
