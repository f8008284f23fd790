"""Canvas for painting anatomy: echo level, reflectors and attenuation in pixel coordinates."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.phantom.geometry import Ellipse, FloatArray, Points, Probe

FLUID_DB = -70.0
SUBPIXEL_BITS = 4


def low_frequency(
    rng: np.random.Generator, shape: tuple[int, int], cells: float, stretch: float = 1.0
) -> FloatArray:
    """Return smooth noise [height, width] of about unit variance.

    Args:
        rng: Source of the noise.
        shape: Height and width, pixels.
        cells: Number of cells along the longer side.
        stretch: Ratio of width to height of a cell.
    """
    height, width = shape
    scale = cells / max(shape)
    rows, columns = round(height * scale * stretch**0.5), round(width * scale / stretch**0.5)
    coarse = rng.standard_normal((max(2, rows) + 2, max(2, columns) + 2), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


class Scene:
    """The scanned scene.

    Attributes:
        echo: Diffuse echo level [height, width], decibels under a full-scale reflector.
        specular: Amplitude of coherent reflectors [height, width], 0-1.
        attenuation: Decibels lost per pixel of beam path [height, width].
        probe: The probe; reflectors are brightest where the beam meets them at a right angle.
        pixel_size_mm: Millimetres per pixel.
    """

    def __init__(self, width: int, height: int, probe: Probe, pixel_size_mm: float, echo_db: float) -> None:
        self.echo = np.full((height, width), echo_db, np.float32)
        self.specular = np.zeros((height, width), np.float32)
        self.attenuation = np.zeros((height, width), np.float32)
        self.probe = probe
        self.pixel_size_mm = pixel_size_mm

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.echo.shape
        return height, width

    def _window(self, points: Points, margin: float) -> tuple[slice, slice] | None:
        """Return the (rows, columns) of the canvas around `points`; None if they are outside."""
        height, width = self.shape
        x0, y0 = np.floor(points.min(0) - margin).astype(int)
        x1, y1 = np.ceil(points.max(0) + margin).astype(int) + 1
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None

    def fill(
        self,
        points: Points,
        echo_db: float,
        softness: float = 0.8,
        opacity: float = 1.0,
        attenuation_db: float | None = None,
        texture_db: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        """Fill a polygon of pixels [N, 2] with tissue.

        Args:
            points: Outline, pixels.
            echo_db: Echo level of the tissue.
            softness: Standard deviation of the border, pixels.
            opacity: Share of the old tissue that is replaced.
            attenuation_db: Decibels lost per pixel; None keeps the old value.
            texture_db: Standard deviation of a low-frequency variation of the level; needs `rng`.
            rng: Generator for that variation.
        """
        window = self._window(points, 3 * softness + 1)
        if window is None:
            return
        echo = self.echo[window]
        mask = self._mask(points, window, softness) * np.float32(opacity)
        level: FloatArray | float = echo_db
        if texture_db and rng is not None:
            level = echo_db + texture_db * low_frequency(rng, echo.shape, 7.0)
        echo += mask * (level - echo)
        self.specular[window] *= 1 - mask
        if attenuation_db is not None:
            lost = self.attenuation[window]
            lost += mask * (attenuation_db - lost)

    def _mask(self, points: Points, window: tuple[slice, slice], softness: float) -> FloatArray:
        rows, columns = window
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        shifted = (points - [columns.start, rows.start]) * 2**SUBPIXEL_BITS
        cv2.fillPoly(mask, [np.round(shifted).astype(np.int32)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        soft = mask.astype(np.float32) * np.float32(1 / 255)
        return cv2.GaussianBlur(soft, (0, 0), softness) if softness > 0.3 else soft

    def stroke(
        self,
        points: Points,
        level_db: float,
        width: float,
        closed: bool = False,
        directional: float = 0.7,
        attenuation_db: float = 0.0,
    ) -> None:
        """Draw a reflecting line through pixels [N, 2].

        Args:
            points: The line, pixels.
            level_db: Level where the beam meets it at a right angle.
            width: Width, pixels.
            closed: Whether the last point joins the first.
            directional: 0 reflects equally in all directions, 1 reflects nothing when parallel to the beam.
            attenuation_db: Decibels lost per pixel inside the line.
        """
        if closed:
            points = np.concatenate([points, points[:1]])
        window = self._window(points, 2 * width + 2)
        if window is None:
            return
        rows, columns = window
        thickness = max(1, round(width))
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        fixed = np.round((points - [columns.start, rows.start]) * 2**SUBPIXEL_BITS).astype(int)
        for start, stop, shade in zip(fixed[:-1], fixed[1:], self._shades(points, directional), strict=True):
            cv2.line(
                mask,
                tuple(map(int, start)),
                tuple(map(int, stop)),
                int(shade),
                thickness,
                cv2.LINE_AA,
                SUBPIXEL_BITS,
            )
        soft = cv2.GaussianBlur(mask, (0, 0), max(0.45, 0.25 * width)).astype(np.float32) * np.float32(
            1 / 255
        )
        peak = 10 ** (level_db / 20) * min(1.0, 0.6 + 0.4 * width / thickness)
        region = self.specular[window]
        np.maximum(region, soft * np.float32(peak), out=region)
        if attenuation_db:
            lost = self.attenuation[window]
            np.maximum(lost, (mask > 20).astype(np.float32) * np.float32(attenuation_db), out=lost)

    def _shades(self, points: Points, directional: float) -> NDArray[np.int64]:
        along = np.diff(points, axis=0)
        middle = (points[:-1] + points[1:]) / 2 - [self.probe.x, self.probe.y]
        cross = along[:, 0] * middle[:, 1] - along[:, 1] * middle[:, 0]
        length = np.linalg.norm(along, axis=1) * np.linalg.norm(middle, axis=1) + 1e-9
        shades: NDArray[np.int64] = (255 * (1 - directional + directional * np.abs(cross) / length)).astype(
            int
        )
        return shades

    def mottle(self, rng: np.random.Generator, strength_db: float, cells: float) -> None:
        """Vary the echo level of everything painted so far: broad patches and fibres across the beam."""
        self.echo += np.float32(strength_db) * low_frequency(rng, self.shape, cells)
        self.echo += np.float32(0.8 * strength_db) * low_frequency(rng, self.shape, 6 * cells, 7.0)

    def shell(
        self,
        ellipse: Ellipse,
        level_db: float,
        width: float,
        attenuation_db: float,
        directional: float,
        modulation: FloatArray,
    ) -> None:
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
