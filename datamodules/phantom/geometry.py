"""Geometry of ellipses and of the curvilinear probe, whose sector has a beam grid and a pixel grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]  # float32 here; OpenCV's type stubs promise only numbers
Points = NDArray[np.float64]


def ellipse_circumference(a: float, b: float) -> float:
    """Return the circumference of an ellipse with semi-axes `a` and `b`, in their unit.

    Ramanujan's second approximation (1914); its relative error is below 1e-6 for the heads of this corpus.
    """
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


def blob(
    rng: np.random.Generator,
    centre: tuple[float, float] = (0.0, 0.0),
    radii: tuple[float, float] = (1.0, 1.0),
    angle: float = 0.0,
    wobble: float = 0.06,
    count: int = 48,
) -> Points:
    """Return a closed, irregular outline [count, 2]: an ellipse with three random harmonics of the radius."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = np.ones(count)
    for harmonic in (2, 3, 5):
        radius += wobble / harmonic**0.5 * rng.normal() * np.cos(harmonic * t + rng.uniform(0, 2 * np.pi))
    return rotated(radii[0] * radius * np.cos(t), radii[1] * radius * np.sin(t), centre, angle)


def rotated(x: Points, y: Points, centre: tuple[float, float], angle: float) -> Points:
    """Rotate coordinates [N] by an angle in radians and move them to `centre`: [N, 2]."""
    c, s = np.cos(angle), np.sin(angle)
    return np.column_stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y])


def resampled(points: Points, count: int) -> Points:
    """Return `count` points [count, 2] on the line through `points`, equally far apart in their index."""
    steps, known = np.linspace(0, len(points) - 1, count), np.arange(len(points))
    return np.column_stack([np.interp(steps, known, points[:, axis]) for axis in (0, 1)])


def band(u: Points, v: Points, half: float) -> Points:
    """Return the outline [2 N, 2] of a band of half width `half` in v about the line (u, v)."""
    return np.concatenate([np.column_stack([u, v - half]), np.column_stack([u, v + half])[::-1]])


def arc(radius: float, start: float, stop: float, count: int = 24) -> Points:
    """Return an open arc [count, 2] about the origin between two angles in radians."""
    t = np.linspace(start, stop, count)
    return np.column_stack([radius * np.cos(t), radius * np.sin(t)])


@dataclass(frozen=True)
class Ellipse:
    """An ellipse on the image in pixels, and the coordinate frame of the anatomy inside it."""

    cx: float  # centre, from the left
    cy: float  # from the top
    a: float  # semi-axis along the frame's first axis
    b: float
    angle: float  # of the first axis against the image's x axis, radians, clockwise on screen

    @property
    def circumference(self) -> float:
        """Circumference in pixels."""
        return ellipse_circumference(self.a, self.b)

    @property
    def half_extent(self) -> tuple[float, float]:
        """Half width and half height of the bounding box, pixels."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return math.hypot(self.a * c, self.b * s), math.hypot(self.a * s, self.b * c)

    def points(self, uv: Points) -> Points:
        """Map frame coordinates [N, 2] (the ellipse is the unit circle) to pixels [N, 2]."""
        u, v = uv[:, 0] * self.a, uv[:, 1] * self.b
        c, s = math.cos(self.angle), math.sin(self.angle)
        return np.column_stack([self.cx + c * u - s * v, self.cy + s * u + c * v])

    def outline(self, scale: float = 1.0, count: int = 96) -> Points:
        """Return `count` points [count, 2] of the outline scaled by `scale`, pixels."""
        t = np.linspace(0, 2 * np.pi, count, endpoint=False)
        return self.points(scale * np.column_stack([np.cos(t), np.sin(t)]))

    def signed_distance(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the distance to the outline and the outward normal (nx, ny), each shaped as `x`.

        First-order approximation, exact on the outline, where the skull is drawn. In pixels; negative inside.
        """
        c, s = math.cos(self.angle), math.sin(self.angle)
        dx, dy = x - np.float32(self.cx), y - np.float32(self.cy)
        u, v = c * dx + s * dy, c * dy - s * dx
        gu, gv = u / self.a**2, v / self.b**2
        level = np.sqrt(u * gu + v * gv) + 1e-6
        gradient = np.sqrt(gu * gu + gv * gv) + 1e-9
        distance = (level - 1) * level / gradient
        nu, nv = gu / gradient, gv / gradient
        return distance, c * nu - s * nv, s * nu + c * nv


def fit_ellipse_to(circumference: float, ratio: float) -> tuple[float, float]:
    """Return semi-axes (a, b) with b / a = `ratio` and exactly this circumference, in its unit."""
    a = circumference / ellipse_circumference(1.0, ratio)
    return a, a * ratio


@dataclass(frozen=True)
class Probe:
    """A curvilinear probe and its sector, in pixels and radians."""

    x: float  # centre of curvature
    y: float  # usually negative, above the picture
    r_min: float  # radius of the transducer's face
    r_max: float  # radius of the deepest echo
    half_angle: float  # half the opening angle
    tilt: float  # of the central beam against the vertical

    def beam_grid(self, samples: int, beams: int) -> tuple[FloatArray, FloatArray]:
        """Return pixel coordinates (x, y), each [samples, beams], of every sample along every beam."""
        r = np.linspace(self.r_min, self.r_max, samples, dtype=np.float32)[:, None]
        t = self.tilt + np.linspace(-self.half_angle, self.half_angle, beams, dtype=np.float32)[None, :]
        return self.x + r * np.sin(t), self.y + r * np.cos(t)

    def scan_conversion(
        self, width: int, height: int, samples: int, beams: int
    ) -> tuple[FloatArray, FloatArray]:
        """Return, for every pixel [height, width], its fractional (beam, sample) on the beam grid."""
        dx = np.arange(width, dtype=np.float32)[None, :] - np.float32(self.x)
        dy = np.arange(height, dtype=np.float32)[:, None] - np.float32(self.y)
        radius = np.sqrt(dx * dx + dy * dy)
        theta = np.arctan2(dx, dy) - np.float32(self.tilt)
        beam = (theta + self.half_angle) * ((beams - 1) / (2 * self.half_angle))
        sample = (radius - self.r_min) * ((samples - 1) / (self.r_max - self.r_min))
        return beam.astype(np.float32), sample.astype(np.float32)
