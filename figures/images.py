"""Sample images with a model's predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.style import GREEN, RED, new_figure, styled


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
