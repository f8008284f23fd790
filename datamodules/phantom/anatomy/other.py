"""Non-standard pictures: limbs, profiles, spine, cord, kidneys, fluid, in random mixtures."""

from __future__ import annotations

import numpy as np

from datamodules.phantom.anatomy.limb import paint_digits, paint_lower_limb
from datamodules.phantom.geometry import Ellipse, blob
from datamodules.phantom.scene import FLUID_DB, Scene

PROFILE = np.array(  # from the crown over forehead, nose, lips and chin to the neck; face to the left
    [
        *([0.9, 0.0], [0.6, 0.0], [0.35, 0.07], [0.2, 0.2], [0.15, 0.32], [0.16, 0.38], [0.03, 0.5]),
        *([0.13, 0.56], [0.08, 0.62], [0.13, 0.66], [0.1, 0.72], [0.18, 0.78], [0.17, 0.88], [0.3, 0.96]),
        *([0.5, 0.97], [0.62, 1.02]),
    ]
)


def paint_other(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    """Paint one or two of the motifs of the class Other."""
    motifs = [_profile, _spine, _cord, _kidneys, _limb, _hand, _placenta]
    chosen = rng.choice(
        len(motifs), size=int(rng.integers(1, 3)), replace=False, p=[0.18, 0.17, 0.14, 0.13, 0.18, 0.1, 0.1]
    )
    for index in chosen:
        motifs[index](scene, rng, tissue_db)


def _place(scene: Scene, rng: np.random.Generator, size: tuple[float, float]) -> Ellipse:
    height, width = scene.shape
    r = rng.uniform(*size) * height
    return Ellipse(
        width * rng.uniform(0.35, 0.65), height * rng.uniform(0.38, 0.65), r, r, rng.uniform(-0.5, 0.5)
    )


def _profile(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    frame = _place(scene, rng, (0.25, 0.38))
    flip = rng.choice([-1.0, 1.0])
    face = (PROFILE + rng.normal(0, 0.01, PROFILE.shape) - 0.5) * [1.9 * flip, 1.9]
    steps, known = np.linspace(0, len(face) - 1, 60), np.arange(len(face))
    smooth = np.stack([np.interp(steps, known, face[:, k]) for k in (0, 1)], axis=1)
    back = np.array([[flip * 1.4, 1.3], [flip * 1.6, 0.0]])  # the body leaves the picture behind the neck
    vault = blob(rng, (flip * 0.45, -0.25), (0.85, 0.72), wobble=0.03)
    for part in (np.concatenate([smooth, back]), vault):
        scene.fill(frame.points(part), tissue_db + 4, 1.2, texture_db=2.5, rng=rng)
    scene.stroke(frame.points(smooth), rng.uniform(-20, -11), 1.6, directional=0.75)
    scene.stroke(frame.points(vault), rng.uniform(-16, -8), 2.0, directional=0.92, attenuation_db=0.4)
    for (u, v), length, angle in (
        ((-0.5, -0.28), 0.22, 0.9),
        ((-0.42, 0.42), 0.3, 0.2),
        ((-0.3, 0.75), 0.3, 0.1),
    ):
        t = np.linspace(-0.5, 0.5, 6) * length  # nasal bone, palate, mandible
        bone = np.stack([flip * (u + t * np.cos(angle)), v + t * np.sin(angle)], axis=1)
        scene.stroke(frame.points(bone), rng.uniform(-12, -4), 1.6, directional=0.5, attenuation_db=2.0)


def _spine(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    frame = _place(scene, rng, (0.42, 0.6))
    t = np.linspace(-1, 1, int(rng.integers(12, 20)))
    bend = rng.normal(0, 0.15) * t**2
    trunk = frame.blob(rng, (0.0, 0.2), (1.2, 0.55), wobble=0.08)
    scene.fill(trunk, tissue_db + 4, 1.2, texture_db=2.5, rng=rng)
    for side in (-0.07, 0.07):
        for u, v in zip(t, bend + side, strict=True):
            tick = np.array([[u - 0.02, v], [u + rng.uniform(0.0, 0.03), v + rng.normal(0, 0.012)]])
            level = rng.uniform(-14, -4)
            scene.stroke(
                frame.points(tick), level, rng.uniform(1.5, 2.6), directional=0.3, attenuation_db=0.9
            )


def _cord(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    frame = _place(scene, rng, (0.25, 0.4))
    scene.fill(frame.outline(1.5), FLUID_DB + 6, 3.0)
    t = np.linspace(0, 1, int(rng.integers(9, 16)))
    path = np.stack(
        [1.2 * (2 * t - 1), 0.5 * np.sin(2 * np.pi * t * rng.uniform(0.6, 1.4) + rng.uniform(0, 6))], axis=1
    )
    for u, v in path:
        ring = frame.blob(rng, (u, v), (0.13, 0.13), wobble=0.08, count=24)
        scene.fill(ring, tissue_db + 2, 0.8)
        scene.stroke(ring, -22, 1.3, closed=True, directional=0.85)
        scene.fill(frame.blob(rng, (u + 0.04, v), (0.05, 0.05), count=12), FLUID_DB, 0.6)


def _kidneys(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    frame = _place(scene, rng, (0.32, 0.42))
    scene.fill(
        frame.blob(rng, (0.0, 0.0), (1.35, 0.95), wobble=0.06),
        tissue_db + 3,
        1.2,
        texture_db=2,
        rng=rng,
    )
    for side in (-1, 1):
        centre = (rng.normal(0, 0.05), side * 0.42)
        scene.fill(frame.blob(rng, centre, (0.42, 0.22)), tissue_db - 5, 1.0)
        scene.stroke(frame.blob(rng, centre, (0.42, 0.22)), -26, 1.2, closed=True, directional=0.9)
        scene.fill(frame.blob(rng, centre, (0.18, 0.06)), FLUID_DB + 4, 0.8)
    for u in np.linspace(-0.75, 0.75, 9):
        tick = np.array([[u - 0.02, rng.normal(0, 0.015)], [u + 0.02, rng.normal(0, 0.015)]])
        level = rng.uniform(-12, -4)
        scene.stroke(frame.points(tick), level, 2.4, directional=0.3, attenuation_db=0.9)


def _limb(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    paint_lower_limb(scene, rng, tissue_db)


def _hand(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    place = _place(scene, rng, (0.2, 0.34))
    palm = place.blob(rng, (0.0, 0.0), (0.45, 0.35))
    scene.fill(palm, tissue_db + 4, 1.2)
    paint_digits(scene, rng, (place.cx, place.cy), place.a, place.angle)


def _placenta(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    frame = _place(scene, rng, (0.4, 0.6))
    scene.fill(frame.blob(rng, (0.0, -0.2), (1.4, 0.5), wobble=0.1), FLUID_DB + 4, 2.0)
    scene.fill(
        frame.blob(rng, (0.0, 0.5), (1.5, 0.5), wobble=0.12),
        tissue_db + 5,
        2.0,
        texture_db=1.5,
        rng=rng,
    )
    for _ in range(int(rng.integers(1, 5))):
        lake = frame.blob(rng, (rng.uniform(-1, 1), rng.uniform(0.3, 0.7)), (rng.uniform(0.05, 0.2), 0.06))
        scene.fill(lake, FLUID_DB + 8, 1.0)
