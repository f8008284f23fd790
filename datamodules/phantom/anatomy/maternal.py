"""The maternal cervix, and the uterus that surrounds every fetal plane."""

from __future__ import annotations

import numpy as np

from datamodules.phantom.geometry import Ellipse, band
from datamodules.phantom.scene import FLUID_DB, Part, Scene


def paint_uterus(scene: Scene, centre: tuple[float, float], reach: float) -> None:
    """Paint abdominal wall, uterine wall, placenta and a pool of amniotic fluid of rough radius `reach` in pixels."""
    (height, width), rng, tissue = scene.shape, scene.rng, scene.tissue_db
    scene.mottle(rng.uniform(3, 6), rng.uniform(4, 9))
    lean = rng.normal(0, 0.25)
    for _ in range(int(rng.integers(4, 9))):  # layers of the wall run across the beam
        y = rng.uniform(0.0, 0.3) * height
        x = np.linspace(-0.1 * width, 1.1 * width, 16)
        wave = 0.02 * height * np.sin(x / width * rng.uniform(2, 7) + rng.uniform(0, 6))
        layer = np.column_stack([x, y + lean * 0.3 * (x - width / 2) + wave])
        scene.stroke(layer, tissue + rng.uniform(2, 12), rng.uniform(1.0, 3.0), directional=0.9)
    cx, cy = centre[0] + rng.normal(0, 0.1) * reach, centre[1] + rng.normal(0.05, 0.1) * reach
    radii = reach * rng.uniform(1.0, 1.7), reach * rng.uniform(0.9, 1.3)
    pool = Part(scene, Ellipse(cx, cy, *radii, lean))
    outline = pool.outline(wobble=0.12)
    pool.fill(outline, FLUID_DB + rng.uniform(0, 10), 2.0, attenuation_db=0.0)
    pool.stroke(outline, tissue + 7, 1.6, closed=True, directional=0.95)
    if rng.random() < 0.5:
        side = rng.uniform(0, 2 * np.pi)
        middle = (1.05 * np.cos(side), 1.05 * np.sin(side))
        placenta = pool.outline(middle, (rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.8)), side, 0.15)
        pool.fill(placenta, tissue + rng.uniform(1, 6), 2.0, texture_db=1.5)


def paint_cervix(scene: Scene) -> None:
    """Paint a sagittal cervix: oblique body, canal in its mucosa, bladder, fetal head near its inner end."""
    (height, width), rng, tissue = scene.shape, scene.rng, scene.tissue_db
    flip = rng.choice([-1.0, 1.0])
    scene.mottle(rng.uniform(3, 5.5), rng.uniform(4, 9))
    length = width * rng.uniform(0.38, 0.6)
    angle = flip * rng.normal(0.3, 0.2)
    cx, cy = width * (0.5 + flip * rng.uniform(0.0, 0.1)), height * rng.uniform(0.42, 0.56)
    # u = -1 is the internal os
    cervix = Part(scene, Ellipse(cx, cy, flip * 0.5 * length, length * rng.uniform(0.24, 0.34), angle))
    _internal_os(cervix)
    body = cervix.outline((0.05, 0.0), (1.15, 1.0))
    cervix.fill(body, tissue + rng.uniform(2, 7), 2.5, attenuation_db=0.03, texture_db=2.0)
    cervix.stroke(body, tissue + 8, 1.6, closed=True, directional=0.9)
    t = np.linspace(-1, 1, 24)
    canal = rng.normal(0, 0.12) * np.sin(np.pi * (t + 1) / 2) + rng.normal(0, 0.05) * np.sin(np.pi * t)
    mucosa = band(t, canal, rng.uniform(0.14, 0.28))
    cervix.fill(mucosa, tissue - rng.uniform(5, 12), 2.0, opacity=0.85)
    line, level = np.column_stack([t, canal]), rng.uniform(-24, -13)
    cervix.stroke(line, level, max(1.0, 0.008 * length), directional=0.6)
    if rng.random() < 0.35:  # funnelling: the canal opens at the internal os
        depth = rng.uniform(0.2, 0.5)
        funnel = [[-1.05, canal[0] - 0.22], [-1 + depth, canal[4]], [-1.05, canal[0] + 0.22]]
        cervix.fill(funnel, FLUID_DB + 5, 1.2)
    if rng.random() < 0.6:
        centre = (-0.7 + rng.normal(0, 0.15), -1.5)
        radii = (rng.uniform(0.4, 0.75), rng.uniform(0.25, 0.5))
        bladder = cervix.blob(centre, radii, FLUID_DB, 1.2, 0.2, 0.1)
        cervix.stroke(bladder, -28, 1.5, closed=True, directional=0.95)


def _internal_os(cervix: Part) -> None:
    """Paint the region above the internal os: fluid and, in most pictures, a part of the fetal skull."""
    scene, rng = cervix.scene, cervix.rng
    cervix.blob((-1.75, 0.15), (0.85, rng.uniform(0.9, 1.7)), FLUID_DB + 6, 2.0, 0.1, 0.1)
    if rng.random() < 0.75:
        cx, cy = cervix.at([[rng.uniform(-2.3, -1.9), rng.uniform(-0.2, 0.8)]])[0]
        r = abs(cervix.frame.a) * rng.uniform(0.65, 0.85)
        skull = Ellipse(cx, cy, r, r * 0.9, rng.uniform(0, 3)).outline()
        scene.fill(skull, scene.tissue_db - 10, 1.0, texture_db=2.0)
        level, width = rng.uniform(-9, -3), max(2.0, 0.035 * r)
        scene.stroke(skull, level, width, closed=True, directional=0.8, attenuation_db=1.2)
