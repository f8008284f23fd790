"""Overlays burned into the picture: callipers, ruler, grey bar, blanked corner, letters.

None depends on the plane: overlays that predict the class are a known confound of real corpora
(Carneiro et al. 2008; arXiv:2303.13918), which a simulator must not reproduce.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture8 = NDArray[np.uint8]
LETTERS = "ABCDEFGHIKLMNOPRSTUV0123456789"


def burn_in(image: Picture8, pixel_size_mm: float, blanked: bool, rng: np.random.Generator) -> None:
    """Draw random overlays on a grey picture [H, W] in place; `blanked` blanks the lower right corner, as in HC18."""
    height, width = image.shape
    if blanked:
        x, y = round(width * rng.uniform(0.74, 0.80)), round(height * rng.uniform(0.80, 0.86))
        image[y:, x:] = 0
    if rng.random() < 0.7:
        _grey_bar(image, rng)
    if rng.random() < 0.5:
        _ruler(image, pixel_size_mm)
    if rng.random() < 0.35:
        _callipers(image, rng)
    if rng.random() < 0.4:
        text = "".join(rng.choice(list(LETTERS), int(rng.integers(3, 9))))
        where = (round(width * rng.uniform(0.02, 0.75)), round(height * rng.choice([0.05, 0.97])))
        size, grey = 0.0011 * width, int(rng.integers(90, 230))
        cv2.putText(image, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, grey, 1, cv2.LINE_AA)


def _grey_bar(image: Picture8, rng: np.random.Generator) -> None:
    height = image.shape[0]
    top, length = round(0.05 * height), round(height * rng.uniform(0.2, 0.3))
    image[top : top + length, 2:5] = np.linspace(255, 0, length).astype(np.uint8)[:, None]


def _ruler(image: Picture8, pixel_size_mm: float) -> None:
    height, width = image.shape
    for k, y in enumerate(np.arange(0, height, 10 / pixel_size_mm)):
        long = 6 if k % 5 == 0 else 3
        image[round(y) : round(y) + 1, width - 2 - long : width - 2] = 190


def _callipers(image: Picture8, rng: np.random.Generator) -> None:
    height, width = image.shape
    centre = np.array([width, height]) * rng.uniform(0.35, 0.65, 2)
    angle, reach = rng.uniform(0, np.pi), height * rng.uniform(0.12, 0.38)
    offset = reach * np.array([np.cos(angle), np.sin(angle)])
    grey, arm = int(rng.integers(170, 255)), max(2, round(0.012 * width))
    ends = [centre - offset, centre + offset]
    for x, y in ends:
        marker = int(rng.choice([cv2.MARKER_CROSS, cv2.MARKER_TILTED_CROSS]))
        cv2.drawMarker(image, (round(x), round(y)), grey, marker, 2 * arm, 1)
    if rng.random() < 0.5:
        for share in np.arange(0.06, 0.97, 6 / reach):
            x, y = ends[0] + share * (ends[1] - ends[0])
            if 0 <= x < width and 0 <= y < height:
                image[int(y), int(x)] = grey
