"""Ultrasound images with predictions beside or below them, and heat maps over them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from figures.style import GREEN, RED, new_figure, styled

LARGEST_TEXT, SMALLEST_TEXT = 28, 10  # pixels
COLD = "no part of the picture raises the similarity"  # said of a heat map that is zero everywhere


@styled
def image_figure(images: Sequence[NDArray[np.uint8]], titles: Sequence[str], right: Sequence[bool]) -> Figure:
    """Draw grey images [H, W] of any sizes in rows of four, titled in green where right, else in red."""
    rows = max(1, -(-len(images) // 4))
    figure = new_figure(11, 2.9 * rows)
    axes = figure.subplots(rows, 4, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title, good in zip(axes.flat, images, titles, right, strict=False):
        axis.imshow(image, cmap="gray")
        axis.set_title(title, fontsize=9, color=GREEN if good else RED)
    return figure


def annotated(image: NDArray[np.uint8], lines: Sequence[str]) -> Image.Image:
    """Write lines of text on a black strip below an image, uint8 [H, W] or [H, W, 3]; no pixel of it is covered."""
    picture = Image.fromarray(image).convert("RGB")
    draw = ImageDraw.Draw(picture)
    size = LARGEST_TEXT
    while size > SMALLEST_TEXT and any(
        draw.textlength(line, ImageFont.load_default(size)) > 0.96 * picture.width for line in lines
    ):
        size -= 1
    step = round(1.4 * size)
    strip = Image.new("RGB", (picture.width, picture.height + step * len(lines) + size // 2))
    strip.paste(picture)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size)
    for number, line in enumerate(lines):
        place = (round(0.02 * picture.width), picture.height + size // 4 + step * number)
        draw.text(place, line, fill="white", font=font)
    return strip


def overlay_heatmap(image: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Blend a heat map [S, S] in [0, 1] over an image, uint8 [H, W] or [H, W, 3].

    The map is that of the image padded to a square and resized to S; the opacity grows with the heat.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = Image.fromarray(np.asarray(heat, dtype=np.float32)).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    own = np.clip(np.asarray(square)[top : top + height, left : left + width], 0, 1)[:, :, None]
    colours = mpl.colormaps["inferno"](own[:, :, 0])[:, :, :3] * 255
    base = (image if image.ndim == 3 else image[:, :, None]).astype(np.float64)
    return np.asarray(np.rint(base * (1 - 0.6 * own) + colours * 0.6 * own), dtype=np.uint8)
