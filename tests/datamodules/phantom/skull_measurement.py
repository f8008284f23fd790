"""Measure a head from the picture only, as a sonographer does: by an ellipse through the bright bone."""

import math

import cv2
import numpy as np

RAYS = 240


def measure_circumference(image: np.ndarray, guess: tuple[float, float, float]) -> float:
    """Return the circumference in pixels of the bright ring in `image` [H, W].

    Args:
        image: Grey picture.
        guess: A rough click of the sonographer: centre x, centre y, mean radius, in pixels.
    """
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0)
    ridge = smooth - cv2.GaussianBlur(smooth, (0, 0), 0.09 * guess[2])
    points = _bone_along_rays(ridge, guess)
    best, votes = points, 0
    rng = np.random.default_rng(0)
    for _ in range(300):  # consensus: ghosts, callipers and tissue lie off the ellipse
        sample = points[rng.choice(len(points), 7, replace=False)]
        width, height, near = _residuals(sample, points)
        near = near < 0.02
        if min(width, height) > guess[2] and max(width, height) < 3 * guess[2] and near.sum() > votes:
            best, votes = points[near], int(near.sum())
    for _ in range(4):
        width, height, off = _residuals(best, points)
        best = points[off < 0.015]
    width, height, _ = _residuals(best, points)
    # circumference by summing chords: no formula shared with the simulator
    t = np.linspace(0, 2 * np.pi, 20001)
    return float(np.hypot(np.diff(width / 2 * np.cos(t)), np.diff(height / 2 * np.sin(t))).sum())


def _residuals(sample: np.ndarray, points: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Fit an ellipse to `sample`; return its axes and how far off `points` lie, as shares of the radius."""
    (cx, cy), (width, height), degrees = cv2.fitEllipseDirect(sample.astype(np.float32))
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    d = points - [cx, cy]
    u = (c * d[:, 0] + s * d[:, 1]) / max(width / 2, 1e-6)
    v = (c * d[:, 1] - s * d[:, 0]) / max(height / 2, 1e-6)
    return width, height, np.abs(np.hypot(u, v) - 1)


def _bone_along_rays(image: np.ndarray, guess: tuple[float, float, float]) -> np.ndarray:
    x, y, radius = guess
    r = np.arange(0.65 * radius, 1.4 * radius, 0.25)
    angles = np.linspace(0, 2 * np.pi, RAYS, endpoint=False)[:, None]
    columns, rows = (x + r * np.cos(angles)).astype(np.float32), (y + r * np.sin(angles)).astype(np.float32)
    rays = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderValue=0)
    peaks = rays.max(axis=1)
    points = []
    for ray, peak, angle in zip(rays, peaks, angles[:, 0], strict=True):
        if peak < 0.5 * np.median(peaks):
            continue  # bone seen edge-on: no echo to click on
        top = int(ray.argmax())
        start, stop = top, top
        while start > 0 and ray[start - 1] > 0.7 * peak:
            start -= 1
        while stop < len(ray) - 1 and ray[stop + 1] > 0.7 * peak:
            stop += 1
        middle = np.average(r[start : stop + 1], weights=ray[start : stop + 1])
        points.append((x + middle * math.cos(angle), y + middle * math.sin(angle)))
    return np.array(points)
