"""The fetal head: a skull of known size and the landmarks of the three standard brain planes.

Positions are in the head's frame: the skull is the unit circle, u runs from forehead (-1) to occiput (+1)
and v from one parietal bone to the other. The landmarks of each plane follow the ISUOG practice guideline for the
fetal brain (Malinger et al. 2020, doi:10.1002/uog.22145).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.phantom.geometry import Ellipse, Points, arc, blob
from datamodules.phantom.scene import FLUID_DB, Scene, low_frequency

BONE_MM = 1.9  # thickness of the skull's echo at term


@dataclass
class Head:
    """A skull on a scene, with methods that paint in its frame.

    Attributes:
        scene: The canvas.
        skull: Centre line of the skull's echo: the true head circumference.
        ga_weeks: Gestational age.
        rng: Generator for all variation.
        tissue_db: Echo level of brain tissue.
        far: +1 or -1: the sign of v in the hemisphere away from the probe.
        front: +1 or -1: whether the forehead is at u < 0 or u > 0.
    """

    scene: Scene
    skull: Ellipse
    ga_weeks: float
    rng: np.random.Generator
    tissue_db: float
    far: float
    front: float

    def at(self, uv: Points) -> Points:
        """Map frame coordinates [N, 2] to pixels, with the forehead on this head's side."""
        return self.skull.points(uv * [self.front, 1.0])

    def px(self, share: float) -> float:
        """Return a share of the smaller semi-axis in pixels."""
        return share * min(self.skull.a, self.skull.b)

    def organ(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        level_db: float,
        angle: float = 0.0,
        opacity: float = 1.0,
        texture_db: float = 0.0,
        wobble: float = 0.06,
        rim_db: float | None = None,
    ) -> None:
        """Fill one blob of tissue and, with `rim_db`, draw its bright outline."""
        outline = self.at(blob(self.rng, centre, radii, angle, wobble))
        softness = max(0.5, self.px(0.02))
        self.scene.fill(outline, level_db, softness, opacity, texture_db=texture_db, rng=self.rng)
        if rim_db is not None:
            self.scene.stroke(outline, rim_db, max(1.0, self.px(0.012)), closed=True, directional=0.95)

    def line(self, uv: Points, level_db: float, width: float = 0.022, directional: float = 0.9) -> None:
        """Draw a slightly irregular reflecting line; `width` is a share of the smaller semi-axis."""
        count = 12
        steps = np.linspace(0, len(uv) - 1, count)
        fine = np.stack([np.interp(steps, np.arange(len(uv)), uv[:, k]) for k in (0, 1)], axis=1)
        fine[:, 1] += 0.006 * np.cumsum(self.rng.normal(size=count)) * 0.7
        self.scene.stroke(self.at(fine), level_db, max(1.0, 0.7 * self.px(width)), directional=directional)

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
    scene, rng = head.scene, head.rng
    scene.fill(head.skull.outline(1.06), head.tissue_db + 14, 1.2, attenuation_db=0.02)  # scalp
    scene.fill(head.skull.outline(0.99), head.tissue_db, 1.0, attenuation_db=0.01, texture_db=4.0, rng=rng)
    band = rng.uniform(0.90, 0.95)  # subarachnoid space: a dark band under the bone
    scene.fill(head.skull.outline(0.975), FLUID_DB + 18, 1.0, opacity=0.5)
    scene.fill(head.skull.outline(band), head.tissue_db, head.px(0.04), texture_db=4.0, rng=rng)
    for _ in range(int(rng.integers(2, 5))):  # echogenic patches
        centre = (rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6))
        radii = (rng.uniform(0.1, 0.35), rng.uniform(0.08, 0.25))
        patch = head.at(blob(rng, centre, radii, rng.uniform(0, 3), 0.15))
        level = head.tissue_db + rng.uniform(-5, 7)
        scene.fill(patch, level, head.px(0.06), opacity=0.7, texture_db=3.0, rng=rng)
    for _ in range(int(rng.integers(8, 18) + max(0.0, head.ga_weeks - 20) * 0.9)):  # sulci deepen with age
        u = rng.uniform(-0.8, 0.8)
        v = rng.choice([-1.0, 1.0]) * rng.uniform(0.15, 0.85) * np.sqrt(max(0.05, 1 - u * u))
        length, slope = rng.uniform(0.02, 0.11), rng.normal(0, 0.2)
        uv = np.array([[u - length, v - slope * length], [u, v + 0.01], [u + length, v + slope * length]])
        head.line(uv, head.tissue_db + rng.uniform(6, 20), 0.02)


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
            head.line(np.stack([u, bend], 1)[start:stop], level_db + rng.normal(0, 3), 0.03)


def _cavum(head: Head, u: float) -> tuple[float, float]:
    """Draw the cavum septi pellucidi, a dark box between two bright walls; return its extent in u."""
    length, half = head.jitter(0.12, 0.015), head.jitter(0.065, 0.01)
    box = np.array(
        [[u - length, -half], [u + length, -0.8 * half], [u + length, 0.8 * half], [u - length, half]]
    )
    head.scene.fill(head.at(box), FLUID_DB + 8, 0.8)
    for side in (-1, 1):
        head.line(
            np.array([[u - length, side * half], [u + length, 0.8 * side * half]]), head.jitter(-15, 3), 0.03
        )
    return u - length, u + length


def _choroid(head: Head, centre: tuple[float, float], size: float, side: float, visible: float) -> None:
    """Draw a lateral ventricle with its choroid plexus in the hemisphere `side`, faded to `visible`."""
    rng = head.rng
    early = np.clip((30 - head.ga_weeks) / 14, 0, 1)  # the plexus fills the ventricle early in pregnancy
    u, v = centre[0], side * centre[1]
    angle = side * head.jitter(0.18, 0.06)
    length, breadth = size, size * (0.36 + 0.10 * early)
    head.organ((u, v), (length, breadth), FLUID_DB + 6, angle, opacity=visible, wobble=0.05)
    axis = np.array([np.cos(angle), np.sin(angle)])
    normal = np.array([-axis[1], axis[0]])
    for wall in (-1.0, 1.0):  # the walls are bright where they lie across the beam, and rarely meet
        start, stop = rng.uniform(-0.98, -0.6), rng.uniform(0.5, 0.9)
        t = np.linspace(start, stop, 12)[:, None]
        bow = breadth * np.sqrt(1 - t**2) * wall
        level = head.jitter(-17, 3) - 14 * (1 - visible)
        head.line(np.array([u, v]) + t * length * axis + bow * normal, level, 0.028)
    plexus = np.array([u, v]) + axis * head.jitter(0.15, 0.06) * length
    radii = (length * (0.68 + 0.12 * early), breadth * (0.7 + 0.15 * early))
    level = head.tissue_db + head.jitter(25, 2.0)
    tilt = angle + rng.normal(0, 0.08)
    head.organ((plexus[0], plexus[1]), radii, level, tilt, opacity=visible, texture_db=3.5, wobble=0.13)


def _thalamic(head: Head) -> None:
    rng = head.rng
    centre = head.jitter(0.06, 0.04)
    size, darker = head.jitter(1.1, 0.06), rng.uniform(14, 20)
    for side in (-1, 1):
        head.organ(
            (centre, side * 0.23 * size), (0.33 * size, 0.2 * size), head.tissue_db - darker,
            side * -0.18, texture_db=1.0, rim_db=head.jitter(-12, 2.0),
        )  # fmt: skip
    gaps = [(centre - 0.26, centre + 0.26)]
    if rng.random() < 0.9:
        gaps.append(_cavum(head, head.jitter(-0.55, 0.03)))
    _midline(head, gaps, head.jitter(-18, 3))
    head.line(
        np.array([[centre - 0.2, 0.0], [centre + 0.2, 0.0]]), head.jitter(-20, 2), 0.025
    )  # third ventricle
    for side in (-1, 1):  # insula and Sylvian fissure
        v = side * head.jitter(0.65, 0.03)
        head.line(np.array([[-0.22, v], [0.0, v * 0.94], [0.2, v]]), head.jitter(-20, 3), 0.03)


def _ventricular(head: Head) -> None:
    rng = head.rng
    size = head.jitter(0.5, 0.03)
    centre = (head.jitter(0.22, 0.04), head.jitter(0.38, 0.03))
    _choroid(head, centre, size, head.far, rng.uniform(0.9, 1.0))
    _choroid(head, centre, size, -head.far, rng.uniform(0.6, 1.0))
    gaps = [_cavum(head, head.jitter(-0.48, 0.04))] if rng.random() < 0.75 else []
    _midline(head, gaps, head.jitter(-15, 3))
    v = head.far * head.jitter(0.2, 0.03)  # frontal horn
    head.organ(
        (-0.45, v), (0.16, 0.06), FLUID_DB + 14, head.far * -0.25, opacity=0.8, rim_db=head.jitter(-24, 3)
    )


def _cerebellar(head: Head) -> None:
    rng = head.rng
    centre, size = (
        head.jitter(0.52, 0.03),
        head.jitter(1.0, 0.05) * (0.9 + 0.1 * min(1.0, head.ga_weeks / 30)),
    )
    gaps = [(centre - 0.35, 1.0)]
    if rng.random() < 0.8:
        gaps.append(_cavum(head, head.jitter(-0.52, 0.03)))
    _midline(head, gaps, head.jitter(-19, 3))
    cistern = np.concatenate(
        [arc((0.0, 0.0), (0.96, 0.96), -0.75, 0.75), arc((0.0, 0.0), (0.6, 0.6), 0.8, -0.8)]
    )
    head.scene.fill(head.at(cistern), FLUID_DB + 4, head.px(0.02), opacity=rng.uniform(0.92, 1))
    lobe = rng.uniform(12, 17)  # brighter than the brain, and far brighter than the cistern
    for side in (-1, 1):
        head.organ(
            (centre, side * 0.29 * size), (0.23 * size, 0.29 * size), head.tissue_db + lobe,
            side * 0.15, texture_db=1.5, rim_db=head.jitter(-13, 2.0),
        )  # fmt: skip
        for k in range(3):  # folia
            u = centre + 0.09 * (k - 1)
            head.line(
                np.array([[u, side * 0.14], [u + 0.01, side * 0.46 * size]]), head.jitter(-20, 3), 0.025
            )
    head.organ(
        (centre + 0.02, 0.0), (0.15, 0.08), head.tissue_db + head.jitter(20, 2), opacity=0.95
    )  # vermis


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
    half = np.stack([0.95 * np.cos(t), -head.far * (0.06 + 0.86 * np.sin(t))], axis=1)
    level = head.tissue_db + head.rng.uniform(-2, 4)
    head.scene.fill(head.at(half), level, head.px(0.12), opacity=veil, texture_db=2.0, rng=head.rng)


def _skull(head: Head) -> None:
    scene, rng = head.scene, head.rng
    thickness_mm = BONE_MM * rng.uniform(0.8, 1.25) * (0.55 + 0.45 * min(1.0, head.ga_weeks / 36))
    width = float(np.clip(thickness_mm / scene.pixel_size_mm, 1.8, 0.09 * head.skull.b))
    crossing_db = rng.uniform(3, 8)  # lost by a beam that meets the bone at a right angle, each time
    patchy = np.exp(0.3 * low_frequency(rng, scene.shape, rng.uniform(6, 14)))
    directional = rng.uniform(0.85, 0.99)
    scene.shell(
        head.skull, rng.uniform(-4, 2), width, crossing_db / (2.5 * 0.36 * width), directional, patchy
    )
