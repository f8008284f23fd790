"""Long bones: the femur in its measurement plane, and the limbs of the non-standard pictures."""

from __future__ import annotations

import numpy as np

from datamodules.phantom.geometry import Ellipse, Points
from datamodules.phantom.scene import Scene


def bone_line(centre: tuple[float, float], length: float, angle: float, bow: float) -> Points:
    """Return the near cortex [24, 2] of a long bone; `bow` is its sagitta as a share of the length."""
    t = np.linspace(-0.5, 0.5, 24)
    x, y = length * t, length * bow * (1 - 4 * t**2)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], axis=1)


def paint_bone(scene: Scene, line: Points, width: float, level_db: float, loss_db: float) -> None:
    """Draw one shaft with blunt, slightly flared ends and its shadow (`loss_db` across the bone)."""
    scene.stroke(line, level_db, width, directional=0.45, attenuation_db=loss_db / max(1.0, width))
    for end, inner in ((line[0], line[2]), (line[-1], line[-3])):
        away = (end - inner) / (np.linalg.norm(end - inner) + 1e-9)
        across = np.array([-away[1], away[0]])
        flare = np.stack([end - 0.8 * width * across, end + 0.3 * width * away, end + 0.8 * width * across])
        scene.stroke(
            flare, level_db - 4, 0.8 * width, directional=0.2, attenuation_db=loss_db / (2 * max(1.0, width))
        )


def paint_femur(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    """Paint one femur: bright shaft, strong shadow, the thigh's muscle and skin, fluid around."""
    height, width = scene.shape
    length = rng.uniform(0.32, 0.62) * width
    angle = rng.normal(0, 0.28)
    centre = (width * rng.uniform(0.42, 0.58), height * rng.uniform(0.36, 0.6))
    girth = length * rng.uniform(0.28, 0.42)
    thigh = Ellipse(centre[0], centre[1] + 0.1 * girth, 0.72 * length, girth, angle)
    outline = thigh.blob(rng, wobble=0.08)
    scene.fill(outline, tissue_db + 4, 1.2, attenuation_db=0.03, texture_db=2.5, rng=rng)
    scene.stroke(outline, rng.uniform(-24, -15), 1.6, closed=True, directional=0.95)
    for _ in range(int(rng.integers(2, 6))):  # fascia between the muscles
        offset = rng.uniform(-0.7, 0.7)
        t = np.linspace(-0.7, 0.7, 12)
        fascia = np.stack([t, offset + 0.1 * np.sin(2 * t + rng.uniform(0, 6))], axis=1)
        scene.stroke(thigh.points(fascia), rng.uniform(-26, -18), 1.2, directional=0.9)
    bow = rng.choice([-1.0, 1.0]) * rng.uniform(0.0, 0.07)
    line = bone_line(centre, length, angle, bow)
    paint_bone(
        scene, line, max(2.0, length * rng.uniform(0.022, 0.042)), rng.uniform(-3, 2), rng.uniform(22, 40)
    )
    if rng.random() < 0.25:  # a piece of the other thigh's bone or of the pelvis
        other = bone_line(
            (centre[0] + rng.normal(0, 0.3) * length, centre[1] + girth * 1.5),
            0.4 * length,
            rng.normal(0, 0.5),
            0.0,
        )
        paint_bone(scene, other, 2.0, -8, 10)


def paint_lower_limb(scene: Scene, rng: np.random.Generator, tissue_db: float) -> None:
    """Paint a forearm or shank: two thinner parallel bones in one sleeve of tissue."""
    height, width = scene.shape
    length, angle = rng.uniform(0.22, 0.4) * width, rng.uniform(-0.9, 0.9)
    centre = np.array([width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.65)])
    sleeve = Ellipse(centre[0], centre[1], 0.75 * length, 0.3 * length, angle)
    scene.fill(sleeve.blob(rng, wobble=0.08), tissue_db + 4, 1.2)
    across = np.array([-np.sin(angle), np.cos(angle)]) * length * rng.uniform(0.08, 0.12)
    for side, share in ((-1, 1.0), (1, rng.uniform(0.75, 0.95))):
        middle = centre + side * across
        line = bone_line((middle[0], middle[1]), share * length, angle + rng.normal(0, 0.04), 0.02)
        paint_bone(scene, line, max(1.8, 0.03 * length), rng.uniform(-6, -1), 16)
    if rng.random() < 0.6:
        end = centre + 0.68 * length * np.array([np.cos(angle), np.sin(angle)])
        paint_digits(scene, rng, (end[0], end[1]), 0.28 * length, angle)


def paint_digits(
    scene: Scene, rng: np.random.Generator, wrist: tuple[float, float], size: float, angle: float
) -> None:
    """Paint a hand or foot: five rays of short bright phalanges."""
    for ray in np.linspace(-0.55, 0.55, 5):
        direction = np.array([np.cos(angle + ray), np.sin(angle + ray)])
        for start, stop in ((0.35, 0.65), (0.75, 0.95)):
            ends = np.array(wrist) + np.outer(np.linspace(start, stop, 3) * size, direction)
            scene.stroke(
                ends, rng.uniform(-12, -4), max(1.4, 0.09 * size), directional=0.3, attenuation_db=1.0
            )
