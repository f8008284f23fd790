"""Detect damaged checkpoints before use: CRC-32 of torch's archives, a digest in the header of safetensors files."""

from __future__ import annotations

import errno
import hashlib
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoints.licences import published_file
from models.messages import one_line

METADATA = "sonodistill"
"""Key in the header of our safetensors files: JSON of what a checkpoint holds besides its tensors."""
DIGEST = "digest"
"""Key in that header: `tensors_digest` of the tensors and of the text under `METADATA`."""

FOLDER = 0x10
"""Bit of a zip member's external attributes."""
_SHORT = partial(hashlib.blake2b, digest_size=12)


class DamagedError(ValueError):
    """A checkpoint is truncated, or was changed after it was written."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(
            f"{path}: damaged ({one_line(reason)}); copy or download it again, or repeat the run that wrote it"
        )


def check_archive(path: Path) -> None:
    """Compare every member of a ``torch.save`` archive with its CRC-32, which torch itself does not read.

    Raises:
        DamagedError: One differs, or the archive is not readable as one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch takes a member that is marked as a folder for an empty one.
            folders = (
                one.filename for one in archive.infolist() if one.external_attr & FOLDER and one.file_size
            )
            changed = archive.testzip() or next(folders, None)
    except Exception as error:  # a damaged directory can raise anything, also EINVAL of a seek
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise
        raise DamagedError(path, f"no readable archive: {error}") from error
    if changed is not None:
        raise DamagedError(path, f"{changed} does not match its checksum")


def tensors_digest(
    tensors: Mapping[str, Tensor], text: str = "", hashed: Callable[[bytes], Any] = _SHORT
) -> str:
    """Return hexadecimal digits that change with any name, type, shape or number of tensors, and with a text.

    24 digits of BLAKE2b, or those of another constructor of `hashlib`.
    """
    digest = hashed(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return str(digest.hexdigest())


def header(tensors: Mapping[str, Tensor], text: str) -> dict[str, str]:
    """Return the header of a safetensors file of this project, with its digest."""
    return {METADATA: text, DIGEST: tensors_digest(tensors, text)}


def check_header(path: Path, tensors: Mapping[str, Tensor], found: Mapping[str, str]) -> None:
    """Compare a safetensors file with the digest in its header `found`; a file of another program has none."""
    if DIGEST in found:
        same = tensors_digest(tensors, found.get(METADATA, "")) == found[DIGEST]
    else:  # a published file of ours has its digest in `PUBLISHED_FILES`
        same = METADATA not in found or published_file(path) is not None
    if not same:
        raise DamagedError(path, "it does not match the digest of its header")
