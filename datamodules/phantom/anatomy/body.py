"""Trunk planes: the fetal abdomen and the four-chamber view of the thorax."""

from __future__ import annotations

import numpy as np

from datamodules.phantom.geometry import Ellipse, Points, arc, blob
from datamodules.phantom.scene import FLUID_DB, Scene


def trunk_outline(scene: Scene, rng: np.random.Generator, fill: float) -> Ellipse:
    """Place a round trunk whose height is the share `fill` of the picture's height."""
    height, width = scene.shape
    b = 0.5 * fill * height
    ratio = rng.uniform(1.0, 1.18)
    room = 0.08
    cx = width * (0.5 + rng.uniform(-room, room))
    cy = height * (0.53 + rng.uniform(-room, room))
    return Ellipse(cx, cy, b * ratio, b, rng.uniform(-0.6, 0.6))


def paint_abdomen(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    """Paint a transverse abdomen: stomach bubble, umbilical vein, spine with its shadow, round outline."""
    body = trunk_outline(scene, rng, rng.uniform(0.55, 0.88))
    r = body.b
    spine, flip = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    _trunk_wall(scene, body, rng, tissue_db + 5)
    frame = Ellipse(body.cx, body.cy, body.a, body.b, body.angle + spine)  # u points at the spine
    for _ in range(int(rng.integers(6, 14))):  # vessels and bowel
        centre = (rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6))
        spot = frame.blob(rng, centre, (rng.uniform(0.02, 0.07), rng.uniform(0.02, 0.05)), rng.uniform(0, 3))
        scene.fill(spot, tissue_db + rng.uniform(-14, 10), 1.0, opacity=0.7)
    stomach = frame.blob(
        rng,
        (rng.uniform(-0.1, 0.2), flip * rng.uniform(0.4, 0.52)),
        (rng.uniform(0.13, 0.26), rng.uniform(0.11, 0.19)),
        rng.uniform(-0.6, 0.6),
        0.1,
    )
    if rng.random() < 0.93:
        scene.fill(stomach, FLUID_DB, 1.0)
        scene.stroke(stomach, -27, max(1.0, 0.015 * r), closed=True)
    _umbilical_vein(scene, frame, rng, flip)
    if rng.random() < 0.5:
        gall = frame.blob(rng, (-0.45, -flip * rng.uniform(0.25, 0.4)), (0.14, 0.05), rng.uniform(-0.5, 0.5))
        scene.fill(gall, FLUID_DB + 5, 0.8, opacity=0.9)
    _flank_ribs(scene, frame, rng, int(rng.integers(0, 3)), -14)
    paint_vertebra(scene, frame, rng, r)
    aorta = frame.blob(rng, (0.5, flip * 0.12), (0.055, 0.055), wobble=0.02)
    scene.fill(aorta, FLUID_DB, 0.7)


def _umbilical_vein(scene: Scene, frame: Ellipse, rng: np.random.Generator, flip: float) -> None:
    """Draw the dark tube that runs from the anterior wall and curves into the portal sinus."""
    t = np.linspace(0, 1, 16)
    start = rng.uniform(-0.7, -0.5)
    u = start + (0.05 - start) * t
    v = -flip * (0.02 + rng.uniform(0.2, 0.34) * t**2.2) + rng.uniform(-0.05, 0.05)
    half = rng.uniform(0.045, 0.075)
    edge = np.concatenate([np.stack([u, v - half], 1), np.stack([u, v + half], 1)[::-1]])
    scene.fill(frame.points(edge), FLUID_DB, 0.8, opacity=rng.uniform(0.85, 1.0))
    for side in (-half, half):
        scene.stroke(frame.points(np.stack([u, v + side], 1)), -17, max(1.0, 0.02 * frame.b), directional=0.8)


def _trunk_wall(scene: Scene, body: Ellipse, rng: np.random.Generator, tissue_db: float) -> None:
    skin = body.outline(1.0)
    scene.fill(skin, tissue_db + 6, 1.0, attenuation_db=0.03)
    scene.fill(body.outline(0.93), tissue_db - 6, 0.02 * body.b)
    scene.fill(body.outline(0.89), tissue_db, 0.02 * body.b, texture_db=2.5, rng=rng)
    scene.stroke(skin, rng.uniform(-21, -12), max(1.2, 0.02 * body.b), closed=True, directional=0.96)


def _flank_ribs(scene: Scene, frame: Ellipse, rng: np.random.Generator, pairs: int, level_db: float) -> None:
    for k in range(pairs):
        for side in (-1, 1):
            middle = side * (0.75 + 0.62 * k + rng.normal(0, 0.08))
            rib = arc((0.0, 0.0), (0.93, 0.93), middle - 0.16, middle + 0.16, 8)
            scene.stroke(
                frame.points(rib),
                level_db + rng.normal(0, 2),
                max(1.5, 0.04 * frame.b),
                directional=0.4,
                attenuation_db=1.6,
            )


def paint_vertebra(scene: Scene, frame: Ellipse, rng: np.random.Generator, r: float) -> None:
    """Draw a vertebra across at u = 0.74: three ossification centres in a triangle, and their shadow."""
    for u, v in ((0.66, 0.0), (0.82, 0.085), (0.82, -0.085)):
        centre = (u + rng.normal(0, 0.01), v + rng.normal(0, 0.01))
        spot = frame.blob(rng, centre, (0.038, 0.032), wobble=0.25, count=16)
        scene.fill(spot, rng.uniform(-12, -5), 0.7, attenuation_db=90 / r)
        scene.stroke(spot, rng.uniform(-14, -5), max(1.0, 0.02 * r), closed=True, directional=0.5)


def paint_thorax(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    """Paint the four-chamber view: heart at an oblique axis, lungs, ribs with shadows, spine."""
    body = trunk_outline(scene, rng, rng.uniform(0.58, 0.9))
    r, flip = body.b, rng.choice([-1.0, 1.0])
    _trunk_wall(scene, body, rng, tissue_db + 3)
    frame = Ellipse(body.cx, body.cy, body.a, body.b, body.angle + rng.uniform(0, 2 * np.pi))
    for side in (-1, 1):
        lung = frame.blob(rng, (0.1, side * 0.46), (0.58, 0.36), side * -0.1, 0.05)
        scene.fill(lung, tissue_db + rng.uniform(4, 9), 0.03 * r, texture_db=1.2, rng=rng)
    _heart(scene, frame, rng, tissue_db, flip)
    _flank_ribs(scene, frame, rng, int(rng.integers(2, 4)), -6)
    paint_vertebra(scene, frame, rng, r)
    aorta = frame.blob(rng, (0.5, flip * 0.1), (0.05, 0.05), wobble=0.02)
    scene.fill(aorta, FLUID_DB, 0.7)


def _heart(scene: Scene, frame: Ellipse, rng: np.random.Generator, tissue_db: float, flip: float) -> None:
    """Draw pericardium, myocardium and four chambers around the crux."""
    size = rng.uniform(0.42, 0.54)
    axis = np.pi + flip * rng.uniform(0.5, 1.0)  # apex away from the spine, 45 degrees to one side
    ux, uy = np.cos(axis), np.sin(axis)
    cx, cy = -0.12 + 0.1 * ux, flip * rng.uniform(0.02, 0.14) + 0.1 * uy
    heart = Ellipse(0.0, 0.0, size, 0.8 * size, axis)

    def at(points: Points) -> Points:
        return frame.points(heart.points(points) + np.array([cx, cy]))

    outline = at(blob(rng, (0.0, 0.0), (1.0, 1.0), wobble=0.04))
    scene.fill(outline, tissue_db + rng.uniform(9, 14), 1.0)
    scene.stroke(outline, -18, max(1.0, 0.02 * frame.b), closed=True)
    squeeze = rng.uniform(0.75, 1.15)  # systole to diastole
    for side in (-1, 1):
        ventricle = blob(rng, (0.36, side * 0.36), (0.44 * squeeze, 0.23 * squeeze), -side * 0.28, 0.06)
        atrium = blob(rng, (-0.42, side * 0.33), (0.30 / squeeze**0.5, 0.25 / squeeze**0.5), 0.0, 0.06)
        for chamber in (ventricle, atrium):
            scene.fill(at(chamber), FLUID_DB, 0.8, opacity=rng.uniform(0.9, 1.0))
        valve = np.array([[-0.06, side * 0.05], [-0.02, side * 0.3], [-0.08, side * 0.55]])
        scene.stroke(at(valve), rng.uniform(-14, -8), max(1.2, 0.022 * frame.b), directional=0.5)
    scene.stroke(
        at(np.array([[0.85, 0.0], [-0.1, 0.0]])),
        rng.uniform(-13, -8),
        max(1.4, 0.03 * frame.b),
        directional=0.5,
    )
    scene.stroke(at(np.array([[-0.3, 0.02], [-0.75, 0.0]])), -16, max(1.0, 0.018 * frame.b), directional=0.5)
