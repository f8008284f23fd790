"""Scan images, and find copies of benchmark images by a perceptual hash that survives resizing and JPEG.

Worker processes import this module, so it imports neither PyTorch nor the corpora.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import cv2
import numpy as np
import pandas as pd

from datamodules.cores import worker_pool
from datamodules.pairs.image_reading import read_image
from datamodules.progress import with_progress
from datamodules.record import Record

SIDE, FREQUENCIES = 64, 16
NEAR = 24
"""Most bits of 255 in which a copy's hash may differ.

Measured on 600 images of HC18: at most 10 after resizing to half, to 224 x 224 or by 1.3, and after JPEG of quality 20;
16 after a gamma of 0.8; at least 56 between images of different patients. Crops, flips and rotations are not found.
"""


def scan_images(records: list[Record], workers: int) -> pd.DataFrame:
    """Decode images in `workers` processes.

    Returns:
        A row for each record: its fields, and ``error`` (why it cannot be read), ``pixel_digest`` (equal for equal
        pictures in any file format), ``perceptual_hash``, ``width``, ``height`` and ``contrast`` (largest minus
        smallest pixel value), missing where they do not apply.
    """
    bar = partial(with_progress, total=len(records), what="decoding", unit=" images")
    if workers <= 1:
        scans = list(bar(map(_scan, records)))
    else:
        with worker_pool(workers) as pool:
            scans = list(bar(pool.map(_scan, records, chunksize=16)))
    found = ["error", "pixel_digest", "perceptual_hash", "width", "height", "contrast"]
    return pd.DataFrame(scans, columns=[*Record.__dataclass_fields__, *found])


def _scan(record: Record) -> dict[str, Any]:
    try:
        image = read_image(record.image)
    except (ValueError, OSError) as error:
        return {**asdict(record), "error": str(error)}
    gray = image if image.ndim == 2 else image[:, :, 0]
    if image.ndim == 3 and (image == gray[:, :, None]).all():
        image = gray  # the same picture stored with three equal channels
    pixels = hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).hexdigest()
    height, width = image.shape[:2]
    contrast = int(image.max()) - int(image.min())
    sizes = {"width": width, "height": height, "contrast": contrast}
    return {**asdict(record), "pixel_digest": pixels, "perceptual_hash": perceptual_hash(image), **sizes}


def perceptual_hash(image: np.ndarray) -> bytes:
    """Return the hash of what an image shows: signs of its lowest cosine frequencies against their median.

    Args:
        image: uint8 [H, W] or [H, W, 3] (RGB).

    Returns:
        32 bytes: 255 bits, one for each of the lowest 16 x 16 frequencies but the mean, and a padding bit.
    """
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    frequencies = cv2.dct(small)[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
    return np.packbits(frequencies > np.median(frequencies)).tobytes()


def nearest_copies(hashes: Sequence[bytes], benchmark: Sequence[bytes]) -> list[int | None]:
    """Return for each hash the position of the nearest of the benchmark's within `NEAR` bits, else None."""
    if not benchmark:
        return [None] * len(hashes)
    theirs = np.stack([np.frombuffer(one, np.uint64) for one in benchmark])
    found: list[int | None] = []
    for one in hashes:
        distances = np.bitwise_count(theirs ^ np.frombuffer(one, np.uint64)).sum(axis=1)
        nearest = int(distances.argmin())
        found.append(nearest if distances[nearest] <= NEAR else None)
    return found
