"""The maternal cervix, and the uterus that surrounds every fetal plane."""

from __future__ import annotations

import numpy as np

from datamodules.phantom.geometry import Ellipse
from datamodules.phantom.scene import FLUID_DB, Scene


def paint_uterus(
    scene: Scene, rng: np.random.Generator, tissue_db: float, centre: tuple[float, float], reach: float
) -> None:
    """Paint abdominal wall, uterine wall, placenta and a pool of amniotic fluid around `centre`.

    Args:
        scene: The canvas, already filled with maternal tissue.
        rng: Generator for all variation.
        tissue_db: Level of maternal tissue.
        centre: Middle of the fluid, pixels.
        reach: Rough radius of the fluid, pixels.
    """
    height, width = scene.shape
    scene.mottle(rng, rng.uniform(3, 6), rng.uniform(4, 9))
    lean = rng.normal(0, 0.25)
    for _ in range(int(rng.integers(4, 9))):  # layers of the wall run across the beam
        y = rng.uniform(0.0, 0.3) * height
        x = np.linspace(-0.1 * width, 1.1 * width, 16)
        wave = 0.02 * height * np.sin(x / width * rng.uniform(2, 7) + rng.uniform(0, 6))
        layer = np.stack([x, y + lean * 0.3 * (x - width / 2) + wave], axis=1)
        scene.stroke(layer, tissue_db + rng.uniform(2, 12), rng.uniform(1.0, 3.0), directional=0.9)
    pool = Ellipse(
        centre[0] + rng.normal(0, 0.1) * reach,
        centre[1] + rng.normal(0.05, 0.1) * reach,
        reach * rng.uniform(1.0, 1.7),
        reach * rng.uniform(0.9, 1.3),
        lean,
    )
    outline = pool.blob(rng, wobble=0.12)
    scene.fill(outline, FLUID_DB + rng.uniform(0, 10), 2.0, attenuation_db=0.0)
    scene.stroke(outline, tissue_db + 7, 1.6, closed=True, directional=0.95)
    if rng.random() < 0.5:
        side = rng.uniform(0, 2 * np.pi)
        placenta = pool.blob(
            rng,
            (1.05 * np.cos(side), 1.05 * np.sin(side)),
            (rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.8)),
            side,
            0.15,
        )
        scene.fill(placenta, tissue_db + rng.uniform(1, 6), 2.0, texture_db=1.5, rng=rng)


def paint_cervix(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    """Paint a sagittal cervix: oblique body, canal in its mucosa, bladder, fetal head near its inner end."""
    height, width = scene.shape
    flip = rng.choice([-1.0, 1.0])
    scene.mottle(rng, rng.uniform(3, 5.5), rng.uniform(4, 9))
    length = width * rng.uniform(0.38, 0.6)
    angle = flip * rng.normal(0.3, 0.2)
    cx, cy = width * (0.5 + flip * rng.uniform(0.0, 0.1)), height * rng.uniform(0.42, 0.56)
    frame = Ellipse(
        cx, cy, flip * 0.5 * length, length * rng.uniform(0.24, 0.34), angle
    )  # u = -1 is the internal os
    _internal_os(scene, rng, frame, tissue_db)
    body = frame.blob(rng, (0.05, 0.0), (1.15, 1.0), wobble=0.06)
    scene.fill(body, tissue_db + rng.uniform(2, 7), 2.5, attenuation_db=0.03, texture_db=2.0, rng=rng)
    scene.stroke(body, tissue_db + 8, 1.6, closed=True, directional=0.9)
    t = np.linspace(-1, 1, 24)
    canal = rng.normal(0, 0.12) * np.sin(np.pi * (t + 1) / 2) + rng.normal(0, 0.05) * np.sin(np.pi * t)
    half = rng.uniform(0.14, 0.28)
    mucosa = np.concatenate([np.stack([t, canal - half], 1), np.stack([t, canal + half], 1)[::-1]])
    scene.fill(frame.points(mucosa), tissue_db - rng.uniform(5, 12), 2.0, opacity=0.85)
    scene.stroke(
        frame.points(np.stack([t, canal], 1)),
        rng.uniform(-24, -13),
        max(1.0, 0.008 * length),
        directional=0.6,
    )
    if rng.random() < 0.35:  # funnelling: the canal opens at the internal os
        depth = rng.uniform(0.2, 0.5)
        funnel = np.array([[-1.05, canal[0] - 0.22], [-1 + depth, canal[4]], [-1.05, canal[0] + 0.22]])
        scene.fill(frame.points(funnel), FLUID_DB + 5, 1.2)
    if rng.random() < 0.6:
        bladder = frame.blob(
            rng,
            (-0.7 + rng.normal(0, 0.15), -1.5),
            (rng.uniform(0.4, 0.75), rng.uniform(0.25, 0.5)),
            0.2,
            0.1,
        )
        scene.fill(bladder, FLUID_DB, 1.2)
        scene.stroke(bladder, -28, 1.5, closed=True, directional=0.95)


def _internal_os(scene: Scene, rng: np.random.Generator, frame: Ellipse, tissue_db: float) -> None:
    """Paint the region above the internal os: fluid and, in most pictures, a part of the fetal skull."""
    fluid = frame.blob(rng, (-1.75, 0.15), (0.85, rng.uniform(0.9, 1.7)), 0.1, 0.1)
    scene.fill(fluid, FLUID_DB + 6, 2.0)
    if rng.random() < 0.75:
        centre = frame.points(np.array([[rng.uniform(-2.3, -1.9), rng.uniform(-0.2, 0.8)]]))[0]
        r = abs(frame.a) * rng.uniform(0.65, 0.85)
        skull = Ellipse(centre[0], centre[1], r, r * 0.9, rng.uniform(0, 3))
        scene.fill(skull.outline(), tissue_db - 10, 1.0, texture_db=2.0, rng=rng)
        scene.stroke(
            skull.outline(),
            rng.uniform(-9, -3),
            max(2.0, 0.035 * r),
            closed=True,
            directional=0.8,
            attenuation_db=1.2,
        )
