"""Render one picture: place the anatomy, aim the probe, simulate the echo, scan-convert, draw overlays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.phantom.anatomy.brain import Head, paint_head
from datamodules.phantom.anatomy.limbs_and_other import paint_femur, paint_other
from datamodules.phantom.anatomy.maternal import paint_cervix, paint_uterus
from datamodules.phantom.anatomy.trunk import paint_abdomen, paint_thorax
from datamodules.phantom.geometry import Ellipse, FloatArray, Probe, fit_ellipse_to
from datamodules.phantom.overlays import burn_in
from datamodules.phantom.patients import CORPORA, Machine, Picture
from datamodules.phantom.scene import Scene, low_frequency
from datamodules.phantom.speckle import Receiver, receive

HC18_PIXEL_SIZES_MM = (0.05, 0.39)
PAINTERS = {"abdomen": paint_abdomen, "heart": paint_thorax, "femur": paint_femur, "other": paint_other}
HEAD_SHARE = (0.5, 0.95)  # mean head diameter over height; HC18: 10 % below 0.51, 90 % below 0.93


@dataclass(frozen=True)
class Truth:
    """Exact ground truth of a picture."""

    pixel_size_mm: float
    ga_days: int
    hc_mm: float | None = None  # None without a head
    skull: Ellipse | None = None  # centre line of the skull's echo


def render(picture: Picture, seed: int) -> tuple[NDArray[np.uint8], Truth]:
    """Return the grey picture [H, W] and its truth, a pure function of both arguments."""
    truth = place(picture, seed)
    rng = np.random.default_rng([seed, CORPORA.index(picture.corpus), picture.index, 2])
    probe = _aim(picture, truth.skull, rng)
    size = (picture.height, picture.width)
    scene = Scene(size, probe, truth.pixel_size_mm, rng.uniform(-40, -29), rng)
    _paint(scene, picture, truth)
    image = _insonify(scene, picture.patient.machine)
    burn_in(image, truth.pixel_size_mm, picture.corpus == "hc18" and rng.random() < 0.8, rng)
    return image, truth


def place(picture: Picture, seed: int) -> Truth:
    """Choose the pixel size and, for a head, a skull ellipse that fits the picture.

    Only heads of the HC18 type have HC18's real pixel sizes: the pictures of the planes are shrunk to about 0.4 of the
    real size, and their pixels are larger in proportion.
    """
    rng = np.random.default_rng([seed, CORPORA.index(picture.corpus), picture.index, 1])
    patient = picture.patient
    if picture.plane != "brain":
        return Truth(rng.uniform(60, 140) / picture.height, patient.ga_days)  # 60-140 mm deep
    same_patient = 1 + 0.005 * rng.normal()  # the plane of a repeated measurement varies
    hc_mm = round(patient.hc_mm * same_patient, 2)
    ratio = float(np.clip(patient.head_ratio + rng.normal(0, 0.02), 0.68, 0.88))
    smallest, largest = (0.0, math.inf) if picture.corpus != "hc18" else HC18_PIXEL_SIZES_MM
    wanted = hc_mm / (math.pi * picture.height * rng.uniform(*HEAD_SHARE))
    pixel_size = float(np.clip(wanted, smallest, largest))
    a, b = fit_ellipse_to(hc_mm / pixel_size, ratio)
    for attempt in range(64):
        angle = rng.normal(0, 0.25) * 0.95**attempt
        skull = Ellipse(0.0, 0.0, a, b, angle)
        half_width, half_height = skull.half_extent
        room_x, room_y = 0.49 * picture.width - half_width, 0.485 * picture.height - half_height
        if room_x > 0 and room_y > 0:
            cx = picture.width / 2 + np.clip(rng.normal(0, 0.08 * picture.width), -room_x, room_x)
            cy = picture.height / 2 + np.clip(rng.normal(0.01, 0.08) * picture.height, -room_y, room_y)
            return Truth(pixel_size, patient.ga_days, hc_mm, Ellipse(float(cx), float(cy), a, b, angle))
    raise RuntimeError(f"phantom: a head of {hc_mm} mm at {pixel_size:.3f} mm/px does not fit {picture}")


def _aim(picture: Picture, skull: Ellipse | None, rng: np.random.Generator) -> Probe:
    """Place the probe above the picture, wide enough to see all of the head."""
    width, height = picture.width, picture.height
    above = height * rng.uniform(0.25, 1.0)
    x = width / 2 + rng.normal(0, 0.04) * width
    tilt = rng.normal(0, 0.06)
    half_angle, top = rng.uniform(0.5, 0.8), math.inf
    if skull is not None:
        outline = skull.outline(1.04)
        seen = np.abs(np.arctan2(outline[:, 0] - x, outline[:, 1] + above) - tilt).max()
        half_angle = max(half_angle, float(seen) + rng.uniform(0.0, 0.05))
        top = float(np.hypot(outline[:, 0] - x, outline[:, 1] + above).min())
    face = above + height * rng.uniform(-0.08, 0.05)
    return Probe(x, -above, min(face, top - 2), above + height * rng.uniform(0.98, 1.2), half_angle, tilt)


def _paint(scene: Scene, picture: Picture, truth: Truth) -> None:
    (height, width), rng, skull = scene.shape, scene.rng, truth.skull
    if picture.plane == "cervix":
        paint_cervix(scene)
    elif skull is None:
        paint_uterus(scene, (width / 2, height / 2), 0.45 * height)
        PAINTERS[picture.plane](scene)
    else:
        paint_uterus(scene, (skull.cx, skull.cy), 0.5 * (skull.a + skull.b))
        tissue_db = min(scene.tissue_db, rng.uniform(-43, -36))
        far = 1.0 if math.cos(skull.angle) > 0 else -1.0
        front = float(rng.choice([-1.0, 1.0]))
        head = Head(scene, skull, truth.ga_days / 7, tissue_db, far, front)
        paint_head(head, picture.brain_plane or "other")


def _insonify(scene: Scene, machine: Machine) -> NDArray[np.uint8]:
    """Sample the scene along the beams, simulate the echo, and convert it back to pixels."""
    probe, (height, width), rng = scene.probe, scene.shape, scene.rng
    samples = max(64, round(probe.r_max - probe.r_min))
    middle = 0.5 * (probe.r_min + probe.r_max)
    beams = max(64, round(2 * probe.half_angle * middle))
    scene.specular *= np.exp(0.6 * low_frequency(rng, (height, width), rng.uniform(25, 50)))  # broken lines
    grid = probe.beam_grid(samples, beams)
    layers = [
        cv2.remap(layer, *grid, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for layer in (scene.echo, scene.specular, scene.attenuation)
    ]
    per_sample = (probe.r_max - probe.r_min) / samples
    axial = float(np.clip(machine.axial_mm / scene.pixel_size_mm, 0.7, 2.6))
    receiver = Receiver(
        axial=axial, lateral=float(np.clip(axial * machine.lateral_ratio, 1.2, 5.0)),
        dynamic_range=machine.dynamic_range, gain=machine.brightness_db + rng.normal(0, 2.0),
        depth_gain=rng.normal(-2, 4), edge_loss=rng.uniform(0, 10), dropout=rng.uniform(0.0, 3.5),
        haze=rng.uniform(-46, -30), haze_depth=rng.uniform(0.06, 0.25), gamma=machine.gamma,
        noise=rng.uniform(-66, -54), smoothing=rng.uniform(0.45, 0.8),
        reverberation=rng.uniform(0.0, 0.07), ghost_depth=rng.uniform(0.03, 0.1),
    )  # fmt: skip
    grey = receive(layers[0], layers[1], layers[2] * np.float32(per_sample), receiver, rng)
    return _scan_convert(grey, probe, width, height)


def _scan_convert(grey: FloatArray, probe: Probe, width: int, height: int) -> NDArray[np.uint8]:
    beam, sample = probe.scan_conversion(width, height, *grey.shape)
    image = cv2.remap(grey, beam, sample, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.round(255 * image).astype(np.uint8)
