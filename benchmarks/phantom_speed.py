"""Pictures a second of the phantom: ``python benchmarks/phantom_speed.py [--workers 2] [--images 400]``.

Times drawing and PNG encoding in a warm pool of processes; starting the pool is reported apart. The pictures
of the planes are 256-307 pixels wide; those of the HC18 type have 480 x 324 pixels.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.phantom.corpus import PNG_COMPRESSION
from datamodules.phantom.patients import Picture, list_pictures
from datamodules.phantom.renderer import render


def draw(picture: Picture) -> int:
    """Return the size in bytes of one encoded picture."""
    image, _ = render(picture, seed=0)
    return len(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=400)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    started = time.perf_counter()
    with ProcessPoolExecutor(options.workers, context, cv2.setNumThreads, (1,)) as pool:
        warm = list_pictures("planes", 16 * options.workers, 1, 6.9, 0.3)
        list(pool.map(draw, warm, chunksize=8))
        print(f"{platform.machine()}, {options.workers} processes, OpenCV {cv2.__version__}")
        print(f"pool ready after {time.perf_counter() - started:.1f} s")
        for corpus in ("planes", "hc18"):
            pictures = list_pictures(corpus, options.images, 0, 6.9, 0.3)
            started = time.perf_counter()
            sizes = list(pool.map(draw, pictures, chunksize=8))
            seconds = time.perf_counter() - started
            kib = sum(sizes) / len(sizes) / 1024
            print(f"{corpus}: {len(sizes) / seconds:.0f} images/s, {kib:.0f} KiB an image")


if __name__ == "__main__":
    main()
