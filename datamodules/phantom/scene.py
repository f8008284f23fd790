"""Canvas for painting anatomy: echo level, reflectors and attenuation in pixel coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from datamodules.phantom.geometry import Ellipse, FloatArray, Points, Probe, blob

FLUID_DB = -70.0
SUBPIXEL_BITS = 4


def low_frequency(
    rng: np.random.Generator, shape: tuple[int, int], cells: float, stretch: float = 1.0
) -> FloatArray:
    """Return smooth noise [height, width] of about unit variance with `cells` cells along the longer side.

    `stretch` is the ratio of width to height of a cell.
    """
    height, width = shape
    scale = cells / max(shape)
    rows, columns = round(height * scale * stretch**0.5), round(width * scale / stretch**0.5)
    coarse = rng.standard_normal((max(2, rows) + 2, max(2, columns) + 2), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@dataclass
class Scene:
    """The scanned scene.

    Attributes:
        shape: Height and width in pixels.
        echo: Diffuse echo level [height, width], decibels under a full-scale reflector.
        specular: Amplitude of coherent reflectors [height, width], 0-1.
        attenuation: Decibels lost per pixel of beam path [height, width].
        probe: The probe; reflectors are brightest where the beam meets them at a right angle.
        pixel_size_mm: Millimetres per pixel.
        tissue_db: Echo level of the maternal tissue that fills the scene at first.
        rng: Generator for all variation.
    """

    shape: tuple[int, int]
    probe: Probe
    pixel_size_mm: float
    tissue_db: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.echo = np.full(self.shape, self.tissue_db, np.float32)
        self.specular = np.zeros(self.shape, np.float32)
        self.attenuation = np.zeros(self.shape, np.float32)

    def fill(
        self,
        points: Points,
        echo_db: float,
        softness: float = 0.8,
        opacity: float = 1.0,
        attenuation_db: float | None = None,
        texture_db: float = 0.0,
    ) -> None:
        """Fill a polygon of pixels [N, 2] with tissue.

        `softness` is the standard deviation of the border in pixels, `opacity` the share of the old tissue that is
        replaced, `texture_db` the standard deviation of a low-frequency variation of the level. The attenuation is per
        pixel; None keeps the old value.
        """
        found = self._window(points, 3 * softness + 1)
        if found is None:
            return
        window, mask, corners = found
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        soft = cv2.GaussianBlur(mask.astype(np.float32) * np.float32(1 / 255), (0, 0), softness)
        soft = soft * np.float32(opacity)
        echo = self.echo[window]
        level: FloatArray | float = echo_db
        if texture_db:
            level = echo_db + texture_db * low_frequency(self.rng, echo.shape, 7.0)
        echo += soft * (level - echo)
        self.specular[window] *= 1 - soft
        if attenuation_db is not None:
            lost = self.attenuation[window]
            lost += soft * (attenuation_db - lost)

    def stroke(
        self,
        points: Points,
        level_db: float,
        width: float,
        closed: bool = False,
        directional: float = 0.7,
        attenuation_db: float = 0.0,
    ) -> None:
        """Draw a reflecting line through pixels [N, 2], `width` pixels wide.

        `level_db` holds where the beam meets it at a right angle. With `directional` 0 it reflects equally in all
        directions, with 1 nothing when parallel to the beam. The attenuation is per pixel inside the line.
        """
        if closed:
            points = np.concatenate([points, points[:1]])
        found = self._window(points, 2 * width + 2)
        if found is None:
            return
        window, mask, corners = found
        thickness = max(1, round(width))
        shades, ends = self._shades(points, directional).tolist(), corners.tolist()
        for start, stop, shade in zip(ends[:-1], ends[1:], shades, strict=True):
            cv2.line(mask, start, stop, shade, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
        blurred = cv2.GaussianBlur(mask, (0, 0), max(0.45, 0.25 * width))
        peak = 10 ** (level_db / 20) * min(1.0, 0.6 + 0.4 * width / thickness)
        region = self.specular[window]
        np.maximum(region, blurred.astype(np.float32) * np.float32(1 / 255) * np.float32(peak), out=region)
        if attenuation_db:
            lost = self.attenuation[window]
            np.maximum(lost, (mask > 20).astype(np.float32) * np.float32(attenuation_db), out=lost)

    def _window(
        self, points: Points, margin: float
    ) -> tuple[tuple[slice, slice], NDArray[np.uint8], NDArray[np.int32]] | None:
        """Return the rows and columns around `points`, a mask of them, and the points on it; None if outside."""
        left, top = np.maximum(np.floor(points.min(0) - margin).astype(int), 0)
        right, bottom = np.minimum(np.ceil(points.max(0) + margin).astype(int) + 1, self.shape[::-1])
        if right <= left or bottom <= top:
            return None
        mask = np.zeros((bottom - top, right - left), np.uint8)
        corners = np.round((points - [left, top]) * 2**SUBPIXEL_BITS).astype(np.int32)
        return (slice(top, bottom), slice(left, right)), mask, corners

    def _shades(self, points: Points, directional: float) -> NDArray[np.int64]:
        along = np.diff(points, axis=0)
        middle = (points[:-1] + points[1:]) / 2 - [self.probe.x, self.probe.y]
        cross = along[:, 0] * middle[:, 1] - along[:, 1] * middle[:, 0]
        length = np.linalg.norm(along, axis=1) * np.linalg.norm(middle, axis=1) + 1e-9
        shades: NDArray[np.int64] = (255 * (1 - directional + directional * np.abs(cross) / length)).astype(
            int
        )
        return shades

    def mottle(self, strength_db: float, cells: float) -> None:
        """Vary the echo level of everything painted so far: broad patches and fibres across the beam."""
        self.echo += np.float32(strength_db) * low_frequency(self.rng, self.shape, cells)
        self.echo += np.float32(0.8 * strength_db) * low_frequency(self.rng, self.shape, 6 * cells, 7.0)

    def shell(
        self, ellipse: Ellipse, level_db: float, width: float, attenuation_db: float, directional: float,
        modulation: FloatArray,
    ) -> None:  # fmt: skip
        """Draw an elliptic shell of bone whose centre line is exactly `ellipse`.

        `modulation` [height, width] multiplies the level. The shell is computed from distances instead of
        drawn as a polygon, because its size is the ground truth.
        """
        sigma = max(0.6, 0.36 * width)
        band = np.zeros(self.shape, np.uint8)
        corners = [np.round(ellipse.outline() * 2**SUBPIXEL_BITS).astype(np.int32)]
        cv2.polylines(band, corners, True, 255, math.ceil(9 * sigma + 4), cv2.LINE_8, SUBPIXEL_BITS)
        y, x = np.nonzero(band)
        distance, nx, ny = ellipse.signed_distance(x.astype(np.float32), y.astype(np.float32))
        bx, by = x - self.probe.x, y - self.probe.y
        facing = np.abs(nx * bx + ny * by) / np.sqrt(bx * bx + by * by)
        profile = np.exp(-0.5 * (distance / sigma) ** 2)
        reflect = (1 - directional + directional * facing**2) * 10 ** (level_db / 20)
        self.specular[y, x] = np.maximum(self.specular[y, x], profile * reflect * modulation[y, x])
        self.attenuation[y, x] += attenuation_db * profile


@dataclass
class Part:
    """A part of the body: paints on a scene in the frame of an ellipse, which is the unit circle there."""

    scene: Scene
    frame: Ellipse

    @property
    def rng(self) -> np.random.Generator:
        """Generator for all variation."""
        return self.scene.rng

    def at(self, uv: ArrayLike) -> Points:
        """Map frame coordinates [N, 2] to pixels."""
        return self.frame.points(np.asarray(uv))

    def px(self, share: float, least: float = 1.0) -> float:
        """Return a share of the second semi-axis in pixels, at least `least`."""
        return max(least, share * self.frame.b)

    def fill(self, uv: ArrayLike, level_db: float, softness: float, **options: Any) -> None:
        """Fill a polygon in frame coordinates; see `Scene.fill`."""
        self.scene.fill(self.at(uv), level_db, softness, **options)

    def stroke(self, uv: ArrayLike, level_db: float, width: float, **options: Any) -> None:
        """Draw a line in frame coordinates; `width` in pixels. See `Scene.stroke`."""
        self.scene.stroke(self.at(uv), level_db, width, **options)

    def outline(self, *shape: Any, **options: Any) -> Points:
        """Draw an irregular outline in frame coordinates; see `geometry.blob`."""
        return blob(self.rng, *shape, **options)

    def blob(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        level_db: float,
        softness: float,
        angle: float = 0.0,
        wobble: float = 0.06,
        count: int = 48,
        **options: Any,
    ) -> Points:
        """Fill an irregular outline, and return it in frame coordinates; see `geometry.blob` and `Scene.fill`."""
        outline = self.outline(centre, radii, angle, wobble, count)
        self.fill(outline, level_db, softness, **options)
        return outline
