"""Pictures per second of the phantom: drawing and PNG encoding in a warm pool of processes.

Pictures of the planes are 256-307 pixels wide; those of the HC18 type have 480 x 324 pixels.
"""

from __future__ import annotations

import os

import cv2

from benchmarks._record import Row, interleave
from datamodules.cores import worker_pool
from datamodules.phantom.corpus import PNG_COMPRESSION
from datamodules.phantom.patients import Picture, list_pictures
from datamodules.phantom.renderer import render

TARGETS = {"planes": 60.0, "hc18": None}


def draw(picture: Picture) -> int:
    """Return the size in bytes of one encoded picture."""
    image, _ = render(picture, seed=0)
    return len(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])[1])


def measure(quick: bool) -> list[Row]:
    workers, images = (1, 8) if quick else (os.cpu_count() or 1, 200)
    rows = []
    with worker_pool(workers) as pool:
        for corpus, target in TARGETS.items():
            pictures = list_pictures(corpus, images, 0, 6.9, 0.3)
            sizes = [*pool.map(draw, pictures[: 16 * workers], chunksize=8)]  # also warms the pool
            seconds = interleave({"ours": lambda: [*pool.map(draw, pictures, chunksize=8)]}, 2, warm=False)  # noqa: B023
            each = seconds["ours"] / images
            case, note = (
                f"{corpus}, {workers} processes",
                f"{sum(sizes) / len(sizes) / 1024:.0f} KiB an image",
            )
            row = Row(
                "phantom generator", case, "images/s", 1 / each, target, seconds={"ours": each}, note=note
            )
            rows.append(row)
    return rows
