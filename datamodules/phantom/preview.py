"""Contact sheet of the phantom: one row per plane."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.phantom.patients import BRAIN_PLANE_SHARES, PLANE_SHARES, Picture, list_pictures
from datamodules.phantom.renderer import render

CELL = (168, 120)  # width and height of a picture on the sheet
COLUMNS = 5


def write_preview(out: Path, seed: int) -> Path:
    """Write a PNG with `COLUMNS` pictures of each brain plane and each other plane; return its path."""
    pictures = list_pictures("planes", 400, seed, 6.9, 0.3)
    names = [plane for plane in BRAIN_PLANE_SHARES if plane != "other"]
    names += [plane for plane in PLANE_SHARES if plane != "brain"]
    sheet = np.vstack([_row(pictures, name, seed) for name in names])
    if not cv2.imwrite(str(out), sheet, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise OSError(f"{out}: could not be written; does its folder exist?")
    return out


def _row(pictures: list[Picture], name: str, seed: int) -> NDArray[np.uint8]:
    chosen = [
        p for p in pictures if name in (p.brain_plane, p.plane) and (p.plane, name) != ("brain", "other")
    ]
    cells = [_cell(render(picture, seed)[0]) for picture in chosen[:COLUMNS]]
    label = np.zeros((18, CELL[0] * COLUMNS), np.uint8)
    cv2.putText(label, name, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 220, 1, cv2.LINE_AA)
    return np.vstack([label, np.hstack(cells)])


def _cell(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    width, height = CELL
    scale = min(width / image.shape[1], height / image.shape[0])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.zeros((height, width), np.uint8)
    cell[: small.shape[0], : small.shape[1]] = small[:height, :width]
    return (np.round(cell / 17) * 17).astype(np.uint8)  # 16 grey levels keep the committed sheet small
