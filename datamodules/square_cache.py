"""Keep each image as the square that training starts from, so that PNGs are decoded once and not every epoch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datamodules.record import Record

Prepare = Callable[[Record], tuple[np.ndarray, tuple[int, int]]]


class SquareCache:
    """Gray squares on disk, filled by whoever reads an image first; what comes out is what would be computed.

    One memory-mapped file serves all workers and epochs and later runs. Colour images are not kept.

    Args:
        root: Folder of all caches.
        records: The images; another list, or a changed file, is another cache.
        side: Largest side of a square, in pixels.
    """

    def __init__(self, root: Path, records: list[Record], side: int) -> None:
        self.root = root
        self.side = side
        self.count = len(records)
        self._folder = root / _digest(records, side)
        self._open: tuple[np.ndarray, np.ndarray] | None = None
        create_zeros(self._folder / "squares.u8", self.count * side * side)
        create_zeros(self._folder / "sizes.i32", self.count * 3 * 4)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}  # every worker maps the files anew

    def get(self, index: int, record: Record, prepare: Prepare) -> tuple[np.ndarray, tuple[int, int]]:
        """Return an image's square (uint8 [side, side]) and the (height, width) of its original.

        Args:
            index: Place of the record in the list.
            record: The record, for `prepare`.
            prepare: Computes what is not there yet.
        """
        squares, sizes = self._maps()
        side, height, width = (int(value) for value in sizes[index])
        if side:
            return np.array(squares[index, :side, :side]), (height, width)
        square, shape = prepare(record)
        if square.ndim == 2:
            squares[index, : len(square), : len(square)] = square
            sizes[index] = (len(square), *shape)  # last: whoever sees a size sees the whole square
        return square, shape

    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        if self._open is None:
            shape = (self.count, self.side, self.side)
            self._open = (
                np.memmap(self._folder / "squares.u8", np.uint8, "r+", shape=shape),
                np.memmap(self._folder / "sizes.i32", np.int32, "r+", shape=(self.count, 3)),
            )
        return self._open


def _digest(records: list[Record], side: int) -> str:
    text = hashlib.sha256(str(side).encode())
    for record in records:
        status = Path(record.image).stat()
        text.update(f"{record.image}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return text.hexdigest()[:16]


def create_zeros(path: Path, size: int) -> None:
    """Make a file of `size` zero bytes, whole or not at all; it is sparse, so takes no room until filled."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.truncate(size)
    partial.replace(path)
