"""Trunk planes: the fetal abdomen and the four-chamber view of the thorax."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from datamodules.phantom.geometry import Ellipse, Points, arc, band
from datamodules.phantom.scene import FLUID_DB, Part, Scene


def paint_abdomen(scene: Scene) -> None:
    """Paint a transverse abdomen: stomach bubble, umbilical vein, spine with its shadow, round outline."""
    rng, tissue = scene.rng, scene.tissue_db
    body = _outline(scene, rng.uniform(0.55, 0.88))
    spine, flip = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    _wall(scene, body, tissue + 5)
    trunk = Part(scene, replace(body, angle=body.angle + spine))  # u points at the spine
    for _ in range(int(rng.integers(6, 14))):  # vessels and bowel
        centre = (rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6))
        radii = (rng.uniform(0.02, 0.07), rng.uniform(0.02, 0.05))
        spot = trunk.outline(centre, radii, rng.uniform(0, 3))
        trunk.fill(spot, tissue + rng.uniform(-14, 10), 1.0, opacity=0.7)
    centre = (rng.uniform(-0.1, 0.2), flip * rng.uniform(0.4, 0.52))
    radii = (rng.uniform(0.13, 0.26), rng.uniform(0.11, 0.19))
    stomach = trunk.outline(centre, radii, rng.uniform(-0.6, 0.6), 0.1)
    if rng.random() < 0.93:
        trunk.fill(stomach, FLUID_DB, 1.0)
        trunk.stroke(stomach, -27, trunk.px(0.015), closed=True)
    _umbilical_vein(trunk, flip)
    if rng.random() < 0.5:  # gall bladder
        centre = (-0.45, -flip * rng.uniform(0.25, 0.4))
        trunk.blob(centre, (0.14, 0.05), FLUID_DB + 5, 0.8, rng.uniform(-0.5, 0.5), opacity=0.9)
    _flank_ribs(trunk, int(rng.integers(0, 3)), -14)
    _spine_and_aorta(trunk, flip * 0.12, 0.055)


def paint_thorax(scene: Scene) -> None:
    """Paint the four-chamber view: heart at an oblique axis, lungs, ribs with shadows, spine."""
    rng, tissue = scene.rng, scene.tissue_db
    body = _outline(scene, rng.uniform(0.58, 0.9))
    flip = rng.choice([-1.0, 1.0])
    _wall(scene, body, tissue + 3)
    trunk = Part(scene, replace(body, angle=body.angle + rng.uniform(0, 2 * np.pi)))
    for side in (-1, 1):
        lung = trunk.outline((0.1, side * 0.46), (0.58, 0.36), side * -0.1, 0.05)
        trunk.fill(lung, tissue + rng.uniform(4, 9), 0.03 * body.b, texture_db=1.2)
    _heart(trunk, flip)
    _flank_ribs(trunk, int(rng.integers(2, 4)), -6)
    _spine_and_aorta(trunk, flip * 0.1, 0.05)


def _outline(scene: Scene, fill: float) -> Ellipse:
    """Place a round trunk whose height is the share `fill` of the picture's height."""
    (height, width), rng = scene.shape, scene.rng
    b = 0.5 * fill * height
    ratio = rng.uniform(1.0, 1.18)
    cx, cy = width * (0.5 + rng.uniform(-0.08, 0.08)), height * (0.53 + rng.uniform(-0.08, 0.08))
    return Ellipse(cx, cy, b * ratio, b, rng.uniform(-0.6, 0.6))


def _wall(scene: Scene, body: Ellipse, tissue_db: float) -> None:
    skin = body.outline(1.0)
    scene.fill(skin, tissue_db + 6, 1.0, attenuation_db=0.03)
    scene.fill(body.outline(0.93), tissue_db - 6, 0.02 * body.b)
    scene.fill(body.outline(0.89), tissue_db, 0.02 * body.b, texture_db=2.5)
    scene.stroke(skin, scene.rng.uniform(-21, -12), max(1.2, 0.02 * body.b), closed=True, directional=0.96)


def _umbilical_vein(trunk: Part, flip: float) -> None:
    """Draw the dark tube that runs from the anterior wall and curves into the portal sinus."""
    rng = trunk.rng
    t = np.linspace(0, 1, 16)
    start = rng.uniform(-0.7, -0.5)
    u = start + (0.05 - start) * t
    v = -flip * (0.02 + rng.uniform(0.2, 0.34) * t**2.2) + rng.uniform(-0.05, 0.05)
    half = rng.uniform(0.045, 0.075)
    trunk.fill(band(u, v, half), FLUID_DB, 0.8, opacity=rng.uniform(0.85, 1.0))
    for side in (-half, half):
        trunk.stroke(np.column_stack([u, v + side]), -17, trunk.px(0.02), directional=0.8)


def _flank_ribs(trunk: Part, pairs: int, level_db: float) -> None:
    for k in range(pairs):
        for side in (-1, 1):
            middle = side * (0.75 + 0.62 * k + trunk.rng.normal(0, 0.08))
            rib, level = arc(0.93, middle - 0.16, middle + 0.16, 8), level_db + trunk.rng.normal(0, 2)
            trunk.stroke(rib, level, trunk.px(0.04, 1.5), directional=0.4, attenuation_db=1.6)


def _spine_and_aorta(trunk: Part, aorta: float, radius: float) -> None:
    """Draw a vertebra across at u = 0.74, three ossification centres in a triangle with their shadow, and the aorta."""
    rng = trunk.rng
    for u, v in ((0.66, 0.0), (0.82, 0.085), (0.82, -0.085)):
        centre = (u + rng.normal(0, 0.01), v + rng.normal(0, 0.01))
        spot = trunk.outline(centre, (0.038, 0.032), wobble=0.25, count=16)
        trunk.fill(spot, rng.uniform(-12, -5), 0.7, attenuation_db=90 / trunk.frame.b)
        trunk.stroke(spot, rng.uniform(-14, -5), trunk.px(0.02), closed=True, directional=0.5)
    trunk.blob((0.5, aorta), (radius, radius), FLUID_DB, 0.7, wobble=0.02)


def _heart(trunk: Part, flip: float) -> None:
    """Draw pericardium, myocardium and four chambers around the crux."""
    rng = trunk.rng
    size = rng.uniform(0.42, 0.54)
    axis = np.pi + flip * rng.uniform(0.5, 1.0)  # apex away from the spine, 45 degrees to one side
    centre = [-0.12 + 0.1 * np.cos(axis), flip * rng.uniform(0.02, 0.14) + 0.1 * np.sin(axis)]
    heart = Ellipse(0.0, 0.0, size, 0.8 * size, axis)

    def at(uv: ArrayLike) -> Points:
        return np.add(heart.points(np.asarray(uv)), centre)

    wall = at(trunk.outline(wobble=0.04))
    trunk.fill(wall, trunk.scene.tissue_db + rng.uniform(9, 14), 1.0)
    trunk.stroke(wall, -18, trunk.px(0.02), closed=True)
    squeeze = rng.uniform(0.75, 1.15)  # systole to diastole
    for side in (-1, 1):
        ventricle = trunk.outline((0.36, side * 0.36), (0.44 * squeeze, 0.23 * squeeze), -side * 0.28)
        atrium = trunk.outline((-0.42, side * 0.33), (0.30 / squeeze**0.5, 0.25 / squeeze**0.5))
        for chamber in (ventricle, atrium):
            trunk.fill(at(chamber), FLUID_DB, 0.8, opacity=rng.uniform(0.9, 1.0))
        valve = at([[-0.06, side * 0.05], [-0.02, side * 0.3], [-0.08, side * 0.55]])
        trunk.stroke(valve, rng.uniform(-14, -8), trunk.px(0.022, 1.2), directional=0.5)
    septum, crux = at([[0.85, 0.0], [-0.1, 0.0]]), at([[-0.3, 0.02], [-0.75, 0.0]])
    trunk.stroke(septum, rng.uniform(-13, -8), trunk.px(0.03, 1.4), directional=0.5)
    trunk.stroke(crux, -16, trunk.px(0.018), directional=0.5)
