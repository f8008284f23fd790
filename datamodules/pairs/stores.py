"""Disk caches of decoded training images and teacher embeddings: files of fixed-size rows with checksums."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from io import FileIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.record import Record
from models.files import digest

_CHECKSUM = 4  # bytes before each row; all zero where the row was never written
_NAMED = 3  # damaged rows that a process names
_HEADER = struct.Struct("<3id")  # side of the square, height and width of the original, zoom

Square = tuple[np.ndarray, tuple[int, int]]
"""A prepared image, uint8 [S, S] or [S, S, 3], and the (height, width) of its original."""


class RowStore:
    """File of rows of `width` bytes that several processes read and write at once, each row atomically.

    Each row has a CRC-32 of its number and its bytes, so that a row that is half written, truncated or changed on disk
    is recognised. Rows are not memory-mapped: a truncated file or a full disk is then a Python error instead of
    SIGBUS. The file is created if it does not exist, opened in place and never replaced, so every process reads and
    writes the same one. Processes may write a row at the same time if they write the same bytes.
    """

    def __init__(self, path: Path, rows: int, width: int) -> None:
        self.path = path
        self.width = width
        self.size = rows * (_CHECKSUM + width)
        self._file: FileIO | None = None
        self._damaged = 0
        self._reserve()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}  # a spawned process opens the file itself

    def read(self, row: int) -> bytes | None:
        """Return a row, or None where it was never written or is damaged, after a warning."""
        stored = os.pread(self._descriptor(), _CHECKSUM + self.width, row * (_CHECKSUM + self.width))
        checksum, data = stored[:_CHECKSUM], stored[_CHECKSUM:]
        if not any(checksum):
            return None
        if checksum != _checksum(row, data):
            self._damaged += 1
            if self._damaged <= _NAMED:
                warnings.warn(f"{self.path}: row {row} is damaged and will be computed again", stacklevel=2)
            return None
        return data

    def write(self, row: int, data: bytes) -> None:
        """Store a row of `width` bytes."""
        start = row * (_CHECKSUM + self.width)
        # The checksum last: until then, other processes see a row that was never written.
        for place, part in ((start + _CHECKSUM, data), (start, _checksum(row, data))):
            while part:  # at the end of the disk or a limit, a write stops short and the next one fails
                written = os.pwrite(self._descriptor(), part, place)
                place, part = place + written, part[written:]

    def clear(self) -> None:
        """Remove all rows."""
        os.ftruncate(self._descriptor(), 0)
        self._reserve()

    def close(self) -> None:
        """Close the file; the next access opens it again and, on a network drive, sees the writes of others."""
        if self._file is not None:
            self._file.close()
        self._file = None

    __del__ = close

    def _descriptor(self) -> int:
        if self._file is None:
            self._file = FileIO(self.path, "r+")
        return self._file.fileno()

    def _reserve(self) -> None:
        """Allocate the space of all rows, so that a later write cannot fail for lack of space."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        present = os.fstat(self._descriptor()).st_size
        if present >= self.size:
            return
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor(), 0, self.size)
            elif shutil.disk_usage(self.path.parent).free < self.size - present:  # macOS
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.path.unlink(missing_ok=True)  # frees what was reserved
            raise OSError(error.errno, error.strerror, str(self.path)) from None


def _checksum(row: int, data: bytes) -> bytes:
    return (zlib.crc32(data, row) or 1).to_bytes(_CHECKSUM, "little")


class SquareCache:
    """Cache of prepared gray training images, bit-identical to computing them again.

    One file serves all workers, processes, epochs and later runs; the first process that needs a square stores it.
    Colour images are not stored.

    Args:
        root: Folder of the file.
        records: The images; other records, or a changed file, give another cache.
        side: Largest side of a square in pixels.
        settings: What else determines the squares, such as the augmentation: primitives.
        draws: Squares of each image.
    """

    def __init__(
        self,
        root: Path,
        records: list[Record],
        side: int,
        settings: Mapping[str, Any] | None = None,
        draws: int = 1,
    ) -> None:
        states = [(str(record), record.image.stat()) for record in records]
        content = [side, draws, settings or {}, [(name, s.st_size, s.st_mtime_ns) for name, s in states]]
        self._images = len(records)
        path = root / f"{digest(content)}.squares"
        self._rows = RowStore(path, draws * self._images, _HEADER.size + side * side)

    def get(self, index: int, draw: int, prepare: Callable[[], Square], zoom: float = 1.0) -> Square:
        """Return an image's square of one draw; `prepare` computes it when it is not stored, or at another zoom."""
        row = self._rows.read(draw * self._images + index)
        if row is not None:
            side, height, width, stored = _HEADER.unpack_from(row)
            if stored == zoom:
                square = np.frombuffer(row, np.uint8, side * side, _HEADER.size).reshape(side, side)
                return square.copy(), (height, width)
        square, shape = prepare()
        self.put(index, draw, square, shape, zoom)
        return square, shape

    def put(
        self, index: int, draw: int, square: np.ndarray, shape: tuple[int, int], zoom: float = 1.0
    ) -> None:
        """Store a square, unless it is coloured; a full disk is a warning."""
        if square.ndim != 2:
            return
        row = _HEADER.pack(len(square), *shape, zoom) + square.tobytes()
        try:
            self._rows.write(draw * self._images + index, row.ljust(self._rows.width, b"\0"))
        except OSError as error:
            warnings.warn(
                f"{self._rows.path}: {error.strerror or error}; not all images are cached", stacklevel=2
            )


def open_cache(
    folder: str | None, records: list[Record], side: int, settings: Mapping[str, Any], draws: int = 1
) -> SquareCache | None:
    """Open a `SquareCache`; None without a folder or, after a warning, without space on the disk."""
    if folder is None:
        return None
    try:
        return SquareCache(Path(folder), records, side, settings, draws)
    except OSError as error:
        rank_zero_warn(
            f"data.cache: {folder}: {error.strerror or error}; training continues without it and prepares the images "
            "in every epoch"
        )
        return None


class TeacherStore:
    """Teacher embeddings of K augmentation draws of N images, in one file.

    A draw is a number: pairs are a function of (seed, draw, index) only (see `PairDataset`), so the student
    sees exactly the pictures and captions that the teacher saw (dataset reinforcement, Faghri et al., ICCV 2023,
    which stores the random parameters; here they are drawn again). With `half`, numbers are float16 instead of float32.
    """

    def __init__(self, path: Path, draws: int, images: int, dim: int, half: bool = False) -> None:
        self.draws = draws
        self.images = images
        self.dim = dim
        self.kind = np.dtype(np.float16 if half else np.float32)
        self.rows = RowStore(path, draws * images, 2 * dim * self.kind.itemsize)

    def missing(self) -> list[tuple[int, int]]:
        """Return the (draw, index) keys that are not stored or whose row is damaged, in order."""
        return [key for key in product(range(self.draws), range(self.images)) if self._read(*key) is None]

    def put(self, keys: list[tuple[int, int]], image: Tensor, text: Tensor) -> None:
        """Store unit-length embeddings [B, D] and [B, D] of B keys."""
        numbers = torch.stack((image, text), dim=1).float().cpu().numpy().astype(self.kind)
        for (draw, index), row in zip(keys, numbers, strict=True):
            self.rows.write(draw * self.images + index, row.tobytes())

    def get(self, draw: int, index: int) -> Tensor:
        """Return the image and the text embedding of one key: [2, D], float32."""
        row = self._read(draw, index)
        if row is None:
            raise ValueError(
                f"{self.rows.path}: draw {draw} of image {index} is not stored; start the run again to embed it"
            )
        return torch.from_numpy(np.frombuffer(row, self.kind).reshape(2, self.dim).astype(np.float32))

    def _read(self, draw: int, index: int) -> bytes | None:
        return self.rows.read(draw * self.images + index)
