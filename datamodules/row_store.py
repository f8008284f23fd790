"""File of equally long rows with a checksum each: a cache that several processes fill and read at once."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
import zlib
from io import FileIO
from pathlib import Path

_CHECKSUM = 4  # bytes in front of each row; all zero where the row was never written


class RowStore:
    """Rows that are read complete or not at all.

    Each row carries a CRC-32 of its number and its bytes, so a row that was half written, cut off or changed on disk
    is recognised. Rows are read with `os.pread` and written with `os.pwrite`, not through a memory map: a truncated
    file or a full disk is then an error in Python instead of SIGBUS. The file is opened in place and never replaced,
    so every process reads and writes the same one. Processes may write a row at the same time if they write the
    same bytes.

    Args:
        path: The file; created if it does not exist.
        rows: Number of rows.
        width: Bytes of a row.

    Attributes:
        size: Bytes of the file.

    Raises:
        OSError: The file cannot be created, or the disk has no space for all rows.
    """

    def __init__(self, path: Path, rows: int, width: int) -> None:
        self.path = path
        self.width = width
        self.size = rows * (_CHECKSUM + width)
        self._file: FileIO | None = None
        self._reserve()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}  # a spawned process opens the file itself

    def read(self, row: int) -> bytes | None:
        """Return a row, or None where it was never written or is damaged; a warning names a damaged row."""
        stored = os.pread(self._descriptor(), _CHECKSUM + self.width, row * (_CHECKSUM + self.width))
        checksum, data = stored[:_CHECKSUM], stored[_CHECKSUM:]
        if not any(checksum):
            return None
        if checksum != _checksum(row, data):
            warnings.warn(f"{self.path}: row {row} is damaged and will be computed again", stacklevel=2)
            return None
        return data

    def write(self, row: int, data: bytes) -> None:
        """Store a row of `width` bytes.

        Raises:
            OSError: The disk is full.
        """
        start = row * (_CHECKSUM + self.width)
        # The checksum last: until then, other processes see a row that was never written.
        self._write(start + _CHECKSUM, data)
        self._write(start, _checksum(row, data))

    def clear(self) -> None:
        """Remove all rows."""
        os.ftruncate(self._descriptor(), 0)
        self._reserve()

    def close(self) -> None:
        """Close the file; the next access opens it again and, on a network drive, sees what others have written."""
        if self._file is not None:
            self._file.close()
        self._file = None

    __del__ = close

    def _write(self, start: int, data: bytes) -> None:
        while (
            data
        ):  # a write that meets the end of the disk or of a limit stops short, and the next one fails
            written = os.pwrite(self._descriptor(), data, start)
            start, data = start + written, data[written:]

    def _descriptor(self) -> int:
        if self._file is None:
            self._file = FileIO(self.path, "r+")
        return self._file.fileno()

    def _reserve(self) -> None:
        """Take the space of all rows now, so that no other file's growth can stop a later write."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        there = os.fstat(self._descriptor()).st_size
        if there >= self.size:
            return
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor(), 0, self.size)
            elif shutil.disk_usage(self.path.parent).free < self.size - there:  # macOS
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.path.unlink(missing_ok=True)  # gives back what was reserved
            raise OSError(error.errno, error.strerror, str(self.path)) from None


def _checksum(row: int, data: bytes) -> bytes:
    return (zlib.crc32(data, row) or 1).to_bytes(_CHECKSUM, "little")
