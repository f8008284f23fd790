"""Cache of each training image's prepared square, so that files are decoded once and not in every epoch."""

from __future__ import annotations

import hashlib
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.record import Record
from datamodules.row_store import RowStore

Prepare = Callable[[Record], tuple[np.ndarray, tuple[int, int]]]

_SIZES = struct.Struct("<3i")  # side of the square, height and width of the original


class SquareCache:
    """Gray squares on disk, bit-identical to what decoding gives.

    One file serves all workers, processes, epochs and later runs; whoever reads an image first stores it. Colour
    images are not stored.

    Args:
        root: Folder of all caches.
        records: The images; another list, or a changed file, is another cache.
        side: Largest side of a square, in pixels.

    Raises:
        OSError: The file cannot be created, or the disk has no space for all squares.
    """

    def __init__(self, root: Path, records: list[Record], side: int) -> None:
        path = root / f"{_digest(records, side)}.squares"
        self._rows = RowStore(path, len(records), _SIZES.size + side * side)

    def get(self, index: int, record: Record, prepare: Prepare) -> tuple[np.ndarray, tuple[int, int]]:
        """Return an image's square (uint8 [side, side]) and the (height, width) of its original.

        Args:
            index: Place of the record in the list.
            record: The record, for `prepare`.
            prepare: Computes what is not stored.
        """
        row = self._rows.read(index)
        if row is not None:
            side, height, width = _SIZES.unpack_from(row)
            square = np.frombuffer(row, np.uint8, side * side, _SIZES.size).reshape(side, side)
            return square.copy(), (height, width)
        square, shape = prepare(record)
        if square.ndim == 2:
            row = _SIZES.pack(len(square), *shape) + square.tobytes()
            try:
                self._rows.write(index, row.ljust(self._rows.width, b"\0"))
            except OSError as error:
                warnings.warn(f"{self._rows.path}: {error.strerror}; not all images are cached", stacklevel=2)
        return square, shape


def open_cache(folder: str | None, records: list[Record], side: int) -> SquareCache | None:
    """Open the cache of some images; None without a folder or, after one line, where the disk has no space for it."""
    if folder is None:
        return None
    try:
        return SquareCache(Path(folder), records, side)
    except OSError as error:
        rank_zero_warn(
            f"data.cache: {folder}: {error.strerror}; training goes on without it and decodes the images in every epoch"
        )
        return None


def _digest(records: list[Record], side: int) -> str:
    text = hashlib.sha256(str(side).encode())
    for record in records:
        status = Path(record.image).stat()
        text.update(f"{record.image}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return text.hexdigest()[:16]
