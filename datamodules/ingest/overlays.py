"""Find the insonified sector of an ultrasound picture, text beside it, and callipers in it; mask all of them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_SIDE = 256  # of the longer edge of the picture in which the sector is found
_REACH = 0.014  # longest arm of a calliper as a share of the picture's width


def find_sector(picture: Picture) -> Mask:
    """Return where the probe's echoes are: the convex hull of the large textured areas and what is connected to them.

    Thin things beside them (text, rulers, grey bars) and bars along an edge do not count. All False for a picture
    without echoes.
    """
    gray = _gray(picture)
    height, width = gray.shape
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.blur(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), (3, 3))
    echoes = cv2.morphologyEx((small > 8).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_SIDE // 24, _SIDE // 24))
    broad = cv2.morphologyEx(echoes, cv2.MORPH_OPEN, disc)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(echoes)
    areas = np.bincount(labels[broad > 0], minlength=count)
    left, top, wide, high = stats[:, :4].T
    at_edge = (left == 0) | (top == 0) | (left + wide == size[0]) | (top + high == size[1])
    areas[at_edge & (np.maximum(wide, high) > 4 * np.minimum(wide, high))] = 0  # title bars
    sector = np.zeros_like(echoes)
    if areas.any():
        large = np.isin(labels, np.flatnonzero(areas >= max(1, 0.03 * areas.max())))
        cv2.fillConvexPoly(sector, cv2.convexHull(cv2.findNonZero(large.astype(np.uint8))), 1)
        sector = cv2.dilate(sector, np.ones((3, 3), np.uint8))
    return cv2.resize(sector, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def find_text(picture: Picture, sector: Mask) -> bool:
    """Return whether there is a line of three or more letters outside the sector.

    It goes by shape: small, sharp, light or dark components of similar height side by side. It reads nothing, and a
    single letter or a scale of one or two digits is no text. More than 3,000 such components count as text.
    """
    gray = _gray(picture)
    contrast = cv2.absdiff(gray, cv2.medianBlur(gray, 21 if min(gray.shape) > 21 else 3))
    ink = ((contrast > 40) & ~sector).astype(np.uint8)
    count, _, stats, centres = cv2.connectedComponentsWithStats(ink, connectivity=8)
    if count < 2:
        return False
    (width, height), x, y = stats[1:, 2:4].T, stats[1:, 0], centres[1:, 1]
    glyph = (height >= 5) & (height <= max(12, 0.08 * gray.shape[0])) & (width <= 12 * height)
    x, y, width, height = x[glyph], y[glyph], width[glyph], height[glyph]
    if len(x) > 3000:  # too many to compare in pairs: a page of text, or noise that may hide some
        return True
    tall = np.maximum(height[:, None], height[None, :])
    gap = np.maximum(x[None, :] - (x + width)[:, None], x[:, None] - (x + width)[None, :])
    level = np.abs(y[:, None] - y[None, :])
    low = np.minimum(height[:, None], height[None, :])
    near = (gap < 1.2 * tall) & (level < 0.5 * tall) & (tall <= 2 * low)
    _, lines = connected_components(coo_array(near), directed=False)
    # Letters that touch are one component; a vertical stroke of a ruler is none.
    letters = np.where(width >= 0.3 * height, np.maximum(1, np.round(width / (0.8 * height))), 0)
    return bool((np.bincount(lines, letters) >= 3).any())


def mask_overlays(picture: Picture) -> Picture:
    """Return the picture, uint8 [H, W] or [H, W, 3], with black outside the sector and without callipers in it.

    Callipers (upright and diagonal crosses), ticks of a ruler along the left and right edge, and coloured lines of an
    otherwise grey picture are filled in from their surroundings. Colour Doppler, text over tissue, and dotted lines
    between callipers stay.
    """
    sector = find_sector(picture)
    if not sector.any():
        return picture
    masked = only_within(picture, sector)
    spots = find_markers(masked)
    if not spots.any():
        return masked
    return np.asarray(cv2.inpaint(masked, spots.astype(np.uint8), 3, cv2.INPAINT_TELEA), np.uint8)


def only_within(picture: Picture, sector: Mask) -> Picture:
    """Return the picture with black outside the sector."""
    return np.where(sector if picture.ndim == 2 else sector[:, :, None], picture, 0).astype(np.uint8)


def find_markers(picture: Picture) -> Mask:
    """Return the pixels of callipers, of ticks at the side edges, and of coloured lines."""
    gray = _gray(picture)
    spots = _crosses(gray) | _ticks(gray)
    if picture.ndim == 3:
        coloured = np.ptp(picture, axis=2) > 60
        if coloured.mean() < 0.01:  # else colour Doppler
            spots |= coloured
    return cv2.dilate(spots.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def _crosses(gray: Picture) -> Mask:
    """Return the strokes of upright and diagonal crosses: bright along four arms of 3 pixels, dark between them."""
    # A thin line vanishes in an opening; tissue mostly does not.
    lines = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, np.ones((5, 5), np.uint8))
    upright = np.zeros((7, 7), np.uint8)
    upright[3, :] = upright[:, 3] = 1
    diagonal = np.eye(7, dtype=np.uint8) | np.eye(7, dtype=np.uint8)[::-1]
    centres = np.zeros(gray.shape, np.uint8)
    for arms, others in ((upright, diagonal), (diagonal, upright)):
        between = others.copy()
        between[2:5, 2:5] = 0
        hit = cv2.subtract(cv2.erode(lines, arms, borderValue=0), cv2.dilate(lines, between))
        centres |= (hit > 30).astype(np.uint8)
    reach = 2 * max(4, round(_REACH * gray.shape[1])) + 1
    return (cv2.dilate(centres, np.ones((reach, reach), np.uint8)) > 0) & (lines > 40)


def _ticks(gray: Picture) -> Mask:
    """Return thin horizontal strokes within 2.5 % of the left and right edge."""
    strokes = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, np.ones((3, 1), np.uint8)) > 60
    margin = max(1, round(0.025 * gray.shape[1]))
    strokes[:, margin : gray.shape[1] - margin] = False
    return strokes


def _gray(picture: Picture) -> Picture:
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
