"""The fetal head: a skull of known size and the landmarks of the three standard brain planes.

Positions are in the head's frame: the skull is the unit circle, u runs from forehead (-1) to occiput (+1)
and v from one parietal bone to the other. The landmarks of each plane follow the ISUOG practice guideline for the
fetal brain (Malinger et al. 2020, doi:10.1002/uog.22145).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from datamodules.phantom.geometry import Points, arc, resampled
from datamodules.phantom.scene import FLUID_DB, Part, low_frequency

BONE_MM = 1.9  # thickness of the skull's echo at term


@dataclass
class Head(Part):
    """A head on a scene; its frame is the centre line of the skull's echo: the true head circumference."""

    ga_weeks: float
    tissue_db: float  # echo level of brain tissue
    far: float  # +1 or -1: sign of v in the hemisphere away from the probe
    front: float  # +1 or -1: whether the forehead is at u < 0 or u > 0

    def at(self, uv: ArrayLike) -> Points:
        """Map frame coordinates [N, 2] to pixels, with the forehead on this head's side."""
        return self.frame.points(np.asarray(uv) * [self.front, 1.0])

    def organ(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        level_db: float,
        angle: float = 0.0,
        rim_db: float | None = None,
        **options: Any,
    ) -> None:
        """Fill one blob of tissue and, with `rim_db`, draw its bright outline."""
        outline = self.blob(centre, radii, level_db, self.px(0.02, 0.5), angle, **options)
        if rim_db is not None:
            self.stroke(outline, rim_db, self.px(0.012), closed=True, directional=0.95)

    def line(self, uv: ArrayLike, level_db: float, width: float) -> None:
        """Draw a slightly irregular reflecting line; `width` is a share of the smaller semi-axis."""
        fine = resampled(np.asarray(uv), 12)
        fine[:, 1] += 0.006 * np.cumsum(self.rng.normal(size=12)) * 0.7
        self.stroke(fine, level_db, max(1.0, 0.7 * self.px(width, 0)), directional=0.9)

    def jitter(self, value: float, spread: float) -> float:
        """Return `value` plus normal variation."""
        return value + spread * float(self.rng.normal())


def paint_head(head: Head, brain_plane: str) -> None:
    """Paint the head in one of `datamodules.record.BRAIN_PLANES`."""
    _tissue(head)
    painters = {
        "trans-thalamic": _thalamic,
        "trans-cerebellum": _cerebellar,
        "trans-ventricular": _ventricular,
        "other": _oblique,
    }
    painters[brain_plane](head)
    _near_field_loss(head)
    _skull(head)


def _tissue(head: Head) -> None:
    scene, skull, rng, tissue = head.scene, head.frame, head.rng, head.tissue_db
    scene.fill(skull.outline(1.06), tissue + 14, 1.2, attenuation_db=0.02)  # scalp
    scene.fill(skull.outline(0.99), tissue, 1.0, attenuation_db=0.01, texture_db=4.0)
    band = rng.uniform(0.90, 0.95)  # subarachnoid space: a dark band under the bone
    scene.fill(skull.outline(0.975), FLUID_DB + 18, 1.0, opacity=0.5)
    scene.fill(skull.outline(band), tissue, head.px(0.04, 0), texture_db=4.0)
    for _ in range(int(rng.integers(2, 5))):  # echogenic patches
        centre = (rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6))
        patch = head.outline(
            centre, (rng.uniform(0.1, 0.35), rng.uniform(0.08, 0.25)), rng.uniform(0, 3), 0.15
        )
        head.fill(patch, tissue + rng.uniform(-5, 7), head.px(0.06, 0), opacity=0.7, texture_db=3.0)
    for _ in range(int(rng.integers(8, 18) + max(0.0, head.ga_weeks - 20) * 0.9)):  # sulci deepen with age
        u = rng.uniform(-0.8, 0.8)
        v = rng.choice([-1.0, 1.0]) * rng.uniform(0.15, 0.85) * np.sqrt(max(0.05, 1 - u * u))
        length, slope = rng.uniform(0.02, 0.11), rng.normal(0, 0.2)
        uv = [[u - length, v - slope * length], [u, v + 0.01], [u + length, v + slope * length]]
        head.line(uv, tissue + rng.uniform(6, 20), 0.02)


def _midline(head: Head, gaps: list[tuple[float, float]], level_db: float) -> None:
    """Draw the falx from front to back, interrupted by `gaps` (u from, u to)."""
    rng = head.rng
    u = np.linspace(-0.94, 0.94, 40)
    bend = 0.015 * np.sin(np.pi * u * rng.uniform(0.5, 1.5) + rng.uniform(0, 6.28))
    keep = np.ones(40, bool)
    for start, stop in [*gaps, *[(x, x + rng.uniform(0.03, 0.15)) for x in rng.uniform(-0.9, 0.8, 2)]]:
        keep &= (u < start) | (u > stop)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], keep.astype(int), [0]])))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start > 1:
            head.line(np.column_stack([u, bend])[start:stop], level_db + rng.normal(0, 3), 0.03)


def _cavum(head: Head, centre: float, spread: float) -> tuple[float, float]:
    """Draw the cavum septi pellucidi, a dark box between two bright walls; return its extent in u."""
    u = head.jitter(centre, spread)
    length, half = head.jitter(0.12, 0.015), head.jitter(0.065, 0.01)
    front, back = u - length, u + length
    head.fill([[front, -half], [back, -0.8 * half], [back, 0.8 * half], [front, half]], FLUID_DB + 8, 0.8)
    for side in (-1, 1):
        head.line([[front, side * half], [back, 0.8 * side * half]], head.jitter(-15, 3), 0.03)
    return front, back


def _choroid(head: Head, centre: tuple[float, float], size: float, side: float, visible: float) -> None:
    """Draw a lateral ventricle with its choroid plexus in the hemisphere `side`, faded to `visible`."""
    rng = head.rng
    early = np.clip((30 - head.ga_weeks) / 14, 0, 1)  # the plexus fills the ventricle early in pregnancy
    u, v = centre[0], side * centre[1]
    angle = side * head.jitter(0.18, 0.06)
    breadth = size * (0.36 + 0.10 * early)
    head.organ((u, v), (size, breadth), FLUID_DB + 6, angle, opacity=visible, wobble=0.05)
    axis = np.array([np.cos(angle), np.sin(angle)])
    normal = np.array([-axis[1], axis[0]])
    for wall in (-1.0, 1.0):  # the walls are bright where they lie across the beam, and rarely meet
        t = np.linspace(rng.uniform(-0.98, -0.6), rng.uniform(0.5, 0.9), 12)[:, None]
        bow = breadth * np.sqrt(1 - t**2) * wall
        level = head.jitter(-17, 3) - 14 * (1 - visible)
        head.line(np.array([u, v]) + t * size * axis + bow * normal, level, 0.028)
    plexus = np.array([u, v]) + axis * head.jitter(0.15, 0.06) * size
    radii = (size * (0.68 + 0.12 * early), breadth * (0.7 + 0.15 * early))
    level = head.tissue_db + head.jitter(25, 2.0)
    tilt = angle + rng.normal(0, 0.08)
    head.organ((plexus[0], plexus[1]), radii, level, tilt, opacity=visible, texture_db=3.5, wobble=0.13)


def _thalamic(head: Head) -> None:
    centre = head.jitter(0.06, 0.04)
    size, level = head.jitter(1.1, 0.06), head.tissue_db - head.rng.uniform(14, 20)
    for side in (-1, 1):
        place, radii = (centre, side * 0.23 * size), (0.33 * size, 0.2 * size)
        head.organ(place, radii, level, side * -0.18, head.jitter(-12, 2.0), texture_db=1.0)
    gaps = [(centre - 0.26, centre + 0.26)]
    if head.rng.random() < 0.9:
        gaps.append(_cavum(head, -0.55, 0.03))
    _midline(head, gaps, head.jitter(-18, 3))
    head.line([[centre - 0.2, 0.0], [centre + 0.2, 0.0]], head.jitter(-20, 2), 0.025)  # third ventricle
    for side in (-1, 1):  # insula and Sylvian fissure
        v = side * head.jitter(0.65, 0.03)
        head.line([[-0.22, v], [0.0, v * 0.94], [0.2, v]], head.jitter(-20, 3), 0.03)


def _ventricular(head: Head) -> None:
    rng = head.rng
    size = head.jitter(0.5, 0.03)
    centre = (head.jitter(0.22, 0.04), head.jitter(0.38, 0.03))
    _choroid(head, centre, size, head.far, rng.uniform(0.9, 1.0))
    _choroid(head, centre, size, -head.far, rng.uniform(0.6, 1.0))
    gaps = [_cavum(head, -0.48, 0.04)] if rng.random() < 0.75 else []
    _midline(head, gaps, head.jitter(-15, 3))
    horn = (-0.45, head.far * head.jitter(0.2, 0.03))
    head.organ(horn, (0.16, 0.06), FLUID_DB + 14, head.far * -0.25, head.jitter(-24, 3), opacity=0.8)


def _cerebellar(head: Head) -> None:
    rng, centre = head.rng, head.jitter(0.52, 0.03)
    size = head.jitter(1.0, 0.05) * (0.9 + 0.1 * min(1.0, head.ga_weeks / 30))
    gaps = [(centre - 0.35, 1.0)]
    if rng.random() < 0.8:
        gaps.append(_cavum(head, -0.52, 0.03))
    _midline(head, gaps, head.jitter(-19, 3))
    cistern = np.concatenate([arc(0.96, -0.75, 0.75), arc(0.6, 0.8, -0.8)])
    head.fill(cistern, FLUID_DB + 4, head.px(0.02, 0), opacity=rng.uniform(0.92, 1))
    level = head.tissue_db + rng.uniform(12, 17)  # brighter than the brain, and far brighter than the cistern
    for side in (-1, 1):
        lobe, radii = (centre, side * 0.29 * size), (0.23 * size, 0.29 * size)
        head.organ(lobe, radii, level, side * 0.15, head.jitter(-13, 2.0), texture_db=1.5)
        for k in range(3):  # folia
            u = centre + 0.09 * (k - 1)
            head.line([[u, side * 0.14], [u + 0.01, side * 0.46 * size]], head.jitter(-20, 3), 0.025)
    vermis = head.tissue_db + head.jitter(20, 2)
    head.organ((centre + 0.02, 0.0), (0.15, 0.08), vermis, opacity=0.95)


def _oblique(head: Head) -> None:
    """Draw a head in a non-standard plane: midline and weak landmarks."""
    rng = head.rng
    _midline(head, [], head.jitter(-18, 4))
    for _ in range(int(rng.integers(1, 4))):
        centre = (rng.uniform(-0.4, 0.6), rng.uniform(-0.5, 0.5))
        radii = (rng.uniform(0.08, 0.2), rng.uniform(0.06, 0.16))
        head.organ(centre, radii, head.tissue_db + rng.uniform(-12, 12), rng.uniform(-1, 1), opacity=0.7)


def _near_field_loss(head: Head) -> None:
    """Reduce the contrast of the hemisphere next to the probe, as reverberation in the near bone does."""
    veil = head.rng.uniform(0.0, 0.3)
    t = np.linspace(0, np.pi, 40)
    half = np.column_stack([0.95 * np.cos(t), -head.far * (0.06 + 0.86 * np.sin(t))])
    level = head.tissue_db + head.rng.uniform(-2, 4)
    head.fill(half, level, head.px(0.12, 0), opacity=veil, texture_db=2.0)


def _skull(head: Head) -> None:
    scene, rng = head.scene, head.rng
    thickness_mm = BONE_MM * rng.uniform(0.8, 1.25) * (0.55 + 0.45 * min(1.0, head.ga_weeks / 36))
    width = float(np.clip(thickness_mm / scene.pixel_size_mm, 1.8, 0.09 * head.frame.b))
    crossing_db = rng.uniform(3, 8)  # lost by a beam that meets the bone at a right angle, each time
    patchy = np.exp(0.3 * low_frequency(rng, scene.shape, rng.uniform(6, 14)))
    directional = rng.uniform(0.85, 0.99)
    loss_db = crossing_db / (2.5 * 0.36 * width)
    scene.shell(head.frame, rng.uniform(-4, 2), width, loss_db, directional, patchy)
