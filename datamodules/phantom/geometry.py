"""Shapes and probe geometry: ellipses measured as sonographers do, and the curvilinear sector's two grids."""

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

    Ramanujan's second approximation (1914); its relative error is below 1e-6 for the heads drawn here.
    """
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


@dataclass(frozen=True)
class Ellipse:
    """An ellipse on the image, and the coordinate frame of whatever lies inside it.

    Attributes:
        cx: Centre, pixels from the left.
        cy: Centre, pixels from the top.
        a: Semi-axis along the frame's first axis, pixels.
        b: Semi-axis along the frame's second axis, pixels.
        angle: Angle of the first axis against the image's x axis, radians, clockwise on screen.
    """

    cx: float
    cy: float
    a: float
    b: float
    angle: float

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
        return np.stack([self.cx + c * u - s * v, self.cy + s * u + c * v], axis=1)

    def outline(self, scale: float = 1.0, count: int = 96) -> Points:
        """Return `count` points [count, 2] of the outline scaled by `scale`, pixels."""
        t = np.linspace(0, 2 * np.pi, count, endpoint=False)
        return self.points(scale * np.stack([np.cos(t), np.sin(t)], axis=1))

    def signed_distance(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the distance to the outline and the outward normal (nx, ny), each shaped as `x`.

        First order in the distance: exact on the outline, where the skull is drawn. Pixels; negative inside.
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
    """A curvilinear probe: where its arc's centre lies and the sector that it sees.

    Attributes:
        x: Centre of curvature, pixels from the left.
        y: Centre of curvature, pixels from the top (usually negative: above the picture).
        r_min: Radius of the transducer's face, pixels.
        r_max: Radius of the deepest echo, pixels.
        half_angle: Half the opening angle, radians.
        tilt: Angle of the central beam against the vertical, radians.
    """

    x: float
    y: float
    r_min: float
    r_max: float
    half_angle: float
    tilt: float

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
