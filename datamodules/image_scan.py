"""Decode every image of a corpus once, in parallel, and keep what the checks need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from datamodules.image_reading import read_image

_CHUNK = 16


@dataclass(frozen=True)
class Scan:
    """What decoding one image showed.

    Attributes:
        error: Why it cannot be read; None when it can.
        pixels: Hash of size and pixel values: equal for equal pictures in whatever file format.
        width: In pixels.
        height: In pixels.
        contrast: Largest less smallest pixel value.
    """

    error: str | None = None
    pixels: str = ""
    width: int = 0
    height: int = 0
    contrast: int = 0


def scan_image(path: Path) -> Scan:
    """Decode one image."""
    try:
        image = read_image(path)
    except (ValueError, OSError) as error:
        return Scan(error=str(error))
    gray = image if image.ndim == 2 else image[:, :, 0]
    if image.ndim == 3 and (image == gray[:, :, None]).all():
        image = gray  # the same picture stored with three equal channels
    digest = hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).hexdigest()
    return Scan(None, digest, image.shape[1], image.shape[0], int(image.max()) - int(image.min()))


def scan_images(
    paths: list[Path], workers: int, progress: Callable[[Iterator[Scan], int], Iterator[Scan]]
) -> list[Scan]:
    """Decode many images.

    Args:
        paths: The files.
        workers: Processes.
        progress: Wraps the results, given their number; shows a bar, for example.
    """
    if workers <= 1:
        return list(progress(map(scan_image, paths), len(paths)))
    with ProcessPoolExecutor(workers) as pool:
        return list(progress(pool.map(scan_image, paths, chunksize=_CHUNK), len(paths)))
