"""The femur, and non-standard pictures: limbs, profiles, spine, cord, kidneys and placenta in random mixtures."""

from __future__ import annotations

import numpy as np

from datamodules.phantom.geometry import Ellipse, Points, resampled, rotated
from datamodules.phantom.scene import FLUID_DB, Part, Scene

PROFILE = np.array(  # from the crown over forehead, nose, lips and chin to the neck; face to the left
    [
        *([0.9, 0.0], [0.6, 0.0], [0.35, 0.07], [0.2, 0.2], [0.15, 0.32], [0.16, 0.38], [0.03, 0.5]),
        *([0.13, 0.56], [0.08, 0.62], [0.13, 0.66], [0.1, 0.72], [0.18, 0.78], [0.17, 0.88], [0.3, 0.96]),
        *([0.5, 0.97], [0.62, 1.02]),
    ]
)
# Position, length and angle of nasal bone, palate and mandible.
FACE_BONES = (((-0.5, -0.28), 0.22, 0.9), ((-0.42, 0.42), 0.3, 0.2), ((-0.3, 0.75), 0.3, 0.1))


def paint_femur(scene: Scene) -> None:
    """Paint one femur: bright shaft, strong shadow, the thigh's muscle and skin, fluid around."""
    (height, width), rng = scene.shape, scene.rng
    length = rng.uniform(0.32, 0.62) * width
    angle = rng.normal(0, 0.28)
    centre = (width * rng.uniform(0.42, 0.58), height * rng.uniform(0.36, 0.6))
    girth = length * rng.uniform(0.28, 0.42)
    thigh = Part(scene, Ellipse(centre[0], centre[1] + 0.1 * girth, 0.72 * length, girth, angle))
    skin = thigh.outline(wobble=0.08)
    thigh.fill(skin, scene.tissue_db + 4, 1.2, attenuation_db=0.03, texture_db=2.5)
    thigh.stroke(skin, rng.uniform(-24, -15), 1.6, closed=True, directional=0.95)
    for _ in range(int(rng.integers(2, 6))):  # fascia between the muscles
        offset = rng.uniform(-0.7, 0.7)
        t = np.linspace(-0.7, 0.7, 12)
        fascia = np.column_stack([t, offset + 0.1 * np.sin(2 * t + rng.uniform(0, 6))])
        thigh.stroke(fascia, rng.uniform(-26, -18), 1.2, directional=0.9)
    line = _bone_line(centre, length, angle, rng.choice([-1.0, 1.0]) * rng.uniform(0.0, 0.07))
    thickness = max(2.0, length * rng.uniform(0.022, 0.042))
    _bone(scene, line, thickness, rng.uniform(-3, 2), rng.uniform(22, 40))
    if rng.random() < 0.25:  # a piece of the other thigh's bone or of the pelvis
        place = (centre[0] + rng.normal(0, 0.3) * length, centre[1] + girth * 1.5)
        _bone(scene, _bone_line(place, 0.4 * length, rng.normal(0, 0.5), 0.0), 2.0, -8, 10)


def paint_other(scene: Scene) -> None:
    """Paint one or two of the motifs of the class Other."""
    motifs = [_profile, _spine, _cord, _kidneys, _limb, _hand, _placenta]
    shares = [0.18, 0.17, 0.14, 0.13, 0.18, 0.1, 0.1]
    for index in scene.rng.choice(len(motifs), int(scene.rng.integers(1, 3)), replace=False, p=shares):
        motifs[index](scene)


def _place(scene: Scene, smallest: float, largest: float) -> Part:
    (height, width), rng = scene.shape, scene.rng
    r = rng.uniform(smallest, largest) * height
    cx, cy = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.38, 0.65)
    return Part(scene, Ellipse(cx, cy, r, r, rng.uniform(-0.5, 0.5)))


def _profile(scene: Scene) -> None:
    rng, head = scene.rng, _place(scene, 0.25, 0.38)
    flip = rng.choice([-1.0, 1.0])
    face = resampled((PROFILE + rng.normal(0, 0.01, PROFILE.shape) - 0.5) * [1.9 * flip, 1.9], 60)
    back = np.array([[flip * 1.4, 1.3], [flip * 1.6, 0.0]])  # the body leaves the picture behind the neck
    vault = head.outline((flip * 0.45, -0.25), (0.85, 0.72), wobble=0.03)
    for part in (np.concatenate([face, back]), vault):
        head.fill(part, scene.tissue_db + 4, 1.2, texture_db=2.5)
    head.stroke(face, rng.uniform(-20, -11), 1.6, directional=0.75)
    head.stroke(vault, rng.uniform(-16, -8), 2.0, directional=0.92, attenuation_db=0.4)
    for (u, v), length, angle in FACE_BONES:
        t = np.linspace(-0.5, 0.5, 6) * length
        bone = np.column_stack([flip * (u + t * np.cos(angle)), v + t * np.sin(angle)])
        head.stroke(bone, rng.uniform(-12, -4), 1.6, directional=0.5, attenuation_db=2.0)


def _spine(scene: Scene) -> None:
    rng, back = scene.rng, _place(scene, 0.42, 0.6)
    t = np.linspace(-1, 1, int(rng.integers(12, 20)))
    bend = rng.normal(0, 0.15) * t**2
    back.blob((0.0, 0.2), (1.2, 0.55), scene.tissue_db + 4, 1.2, wobble=0.08, texture_db=2.5)
    for side in (-0.07, 0.07):
        for u, v in zip(t, bend + side, strict=True):
            tick = [[u - 0.02, v], [u + rng.uniform(0.0, 0.03), v + rng.normal(0, 0.012)]]
            level, width = rng.uniform(-14, -4), rng.uniform(1.5, 2.6)
            back.stroke(tick, level, width, directional=0.3, attenuation_db=0.9)


def _cord(scene: Scene) -> None:
    rng, cord = scene.rng, _place(scene, 0.25, 0.4)
    scene.fill(cord.frame.outline(1.5), FLUID_DB + 6, 3.0)
    t = np.linspace(0, 1, int(rng.integers(9, 16)))
    wave = 0.5 * np.sin(2 * np.pi * t * rng.uniform(0.6, 1.4) + rng.uniform(0, 6))
    for u, v in zip(1.2 * (2 * t - 1), wave, strict=True):
        ring = cord.blob((u, v), (0.13, 0.13), scene.tissue_db + 2, 0.8, wobble=0.08, count=24)
        cord.stroke(ring, -22, 1.3, closed=True, directional=0.85)
        cord.blob((u + 0.04, v), (0.05, 0.05), FLUID_DB, 0.6, count=12)


def _kidneys(scene: Scene) -> None:
    rng, trunk = scene.rng, _place(scene, 0.32, 0.42)
    trunk.blob((0.0, 0.0), (1.35, 0.95), scene.tissue_db + 3, 1.2, texture_db=2)
    for side in (-1, 1):
        centre = (rng.normal(0, 0.05), side * 0.42)
        trunk.blob(centre, (0.42, 0.22), scene.tissue_db - 5, 1.0)
        trunk.stroke(trunk.outline(centre, (0.42, 0.22)), -26, 1.2, closed=True, directional=0.9)
        trunk.blob(centre, (0.18, 0.06), FLUID_DB + 4, 0.8)
    for u in np.linspace(-0.75, 0.75, 9):
        tick = [[u - 0.02, rng.normal(0, 0.015)], [u + 0.02, rng.normal(0, 0.015)]]
        trunk.stroke(tick, rng.uniform(-12, -4), 2.4, directional=0.3, attenuation_db=0.9)


def _limb(scene: Scene) -> None:
    """Paint a forearm or shank: two thinner parallel bones in one sleeve of tissue."""
    (height, width), rng = scene.shape, scene.rng
    length, angle = rng.uniform(0.22, 0.4) * width, rng.uniform(-0.9, 0.9)
    centre = np.array([width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.65)])
    sleeve = Part(scene, Ellipse(centre[0], centre[1], 0.75 * length, 0.3 * length, angle))
    sleeve.fill(sleeve.outline(wobble=0.08), scene.tissue_db + 4, 1.2)
    across = np.array([-np.sin(angle), np.cos(angle)]) * length * rng.uniform(0.08, 0.12)
    for side, share in ((-1, 1.0), (1, rng.uniform(0.75, 0.95))):
        middle = centre + side * across
        line = _bone_line((middle[0], middle[1]), share * length, angle + rng.normal(0, 0.04), 0.02)
        _bone(scene, line, max(1.8, 0.03 * length), rng.uniform(-6, -1), 16)
    if rng.random() < 0.6:
        end = centre + 0.68 * length * np.array([np.cos(angle), np.sin(angle)])
        _digits(scene, end, 0.28 * length, angle)


def _hand(scene: Scene) -> None:
    palm = _place(scene, 0.2, 0.34)
    palm.blob((0.0, 0.0), (0.45, 0.35), scene.tissue_db + 4, 1.2)
    _digits(scene, np.array([palm.frame.cx, palm.frame.cy]), palm.frame.a, palm.frame.angle)


def _placenta(scene: Scene) -> None:
    rng, part = scene.rng, _place(scene, 0.4, 0.6)
    part.blob((0.0, -0.2), (1.4, 0.5), FLUID_DB + 4, 2.0, wobble=0.1)
    part.blob((0.0, 0.5), (1.5, 0.5), scene.tissue_db + 5, 2.0, wobble=0.12, texture_db=1.5)
    for _ in range(int(rng.integers(1, 5))):  # lakes
        centre = (rng.uniform(-1, 1), rng.uniform(0.3, 0.7))
        part.blob(centre, (rng.uniform(0.05, 0.2), 0.06), FLUID_DB + 8, 1.0)


def _bone_line(centre: tuple[float, float], length: float, angle: float, bow: float) -> Points:
    """Return the near cortex [24, 2] of a long bone; `bow` is its sagitta as a share of the length."""
    t = np.linspace(-0.5, 0.5, 24)
    return rotated(length * t, length * bow * (1 - 4 * t**2), centre, angle)


def _bone(scene: Scene, line: Points, width: float, level_db: float, loss_db: float) -> None:
    """Draw one shaft with blunt, slightly flared ends and its shadow (`loss_db` across the bone)."""
    loss = loss_db / max(1.0, width)
    scene.stroke(line, level_db, width, directional=0.45, attenuation_db=loss)
    for end, inner in ((line[0], line[2]), (line[-1], line[-3])):
        away = (end - inner) / (np.linalg.norm(end - inner) + 1e-9)
        across = np.array([-away[1], away[0]])
        flare = np.stack([end - 0.8 * width * across, end + 0.3 * width * away, end + 0.8 * width * across])
        scene.stroke(flare, level_db - 4, 0.8 * width, directional=0.2, attenuation_db=loss / 2)


def _digits(scene: Scene, wrist: Points, size: float, angle: float) -> None:
    """Paint a hand or foot: five rays of short bright phalanges."""
    for ray in np.linspace(-0.55, 0.55, 5):
        direction = np.array([np.cos(angle + ray), np.sin(angle + ray)])
        for start, stop in ((0.35, 0.65), (0.75, 0.95)):
            ends = wrist + np.outer(np.linspace(start, stop, 3) * size, direction)
            level, width = scene.rng.uniform(-12, -4), max(1.4, 0.09 * size)
            scene.stroke(ends, level, width, directional=0.3, attenuation_db=1.0)
