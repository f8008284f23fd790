"""Sample images with what a model made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.style import GREEN, RED, new_figure, styled


@styled
def image_figure(images: Sequence[NDArray[np.uint8]], titles: Sequence[str], right: Sequence[bool]) -> Figure:
    """Draw images in rows of four; the title of a right prediction is green, that of a wrong one red.

    Args:
        images: Grey images [H, W], of any sizes.
        titles: Text above each.
        right: Whether each prediction is right.
    """
    rows = max(1, -(-len(images) // 4))
    figure = new_figure(11, 2.9 * rows)
    axes = figure.subplots(rows, 4, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title, good in zip(axes.flat, images, titles, right, strict=False):
        axis.imshow(image, cmap="gray")
        axis.set_title(title, fontsize=9, color=GREEN if good else RED)
    return figure
