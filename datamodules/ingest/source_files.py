"""The files of a source, and the keyed hashes (HMAC-SHA256) that stand for them and for other identifiers."""

from __future__ import annotations

import hashlib
import hmac
import os
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path

from models.messages import count


def pseudonym(secret: str, kind: str, value: str) -> str:
    """Return the keyed hash, 16 hexadecimal digits, that stands for an identifier; `kind` is "patient" or "study"."""
    text = f"{kind}\0{value}".encode("utf-8", "surrogateescape")  # a file's name may be in another encoding
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()[:16]


def file_id(secret: str, path: str) -> str:
    """Return the hash that stands for a path below the source, however Windows or macOS would write it."""
    plain = unicodedata.normalize("NFC", path.replace("\\", "/")).removeprefix("./")
    return pseudonym(secret, "file", plain)


def list_files(source: Path, secret: str) -> Iterator[tuple[str, Path]]:
    """Yield the id and the path of every file."""
    files, links = [source], 0
    if source.is_dir():
        # Unlike `Path.rglob`, this does not pass over a folder that cannot be read.
        walked = [(Path(folder), inner, names) for folder, inner, names in os.walk(source, onerror=_stop)]
        files = [path for folder, _, names in walked for name in names if (path := folder / name).is_file()]
        links = sum((folder / name).is_symlink() for folder, inner, _ in walked for name in inner)
    if links:
        warnings.warn(
            f"{source}: {count(links, 'link')} to folders not followed; copy those folders into the source, or ingest "
            "each into a new folder",
            stacklevel=2,
        )
    for path in files:
        yield file_id(secret, relative(path, source).as_posix()), path


def _stop(error: OSError) -> None:
    reason = f"{error.filename}: cannot be read ({error.strerror}); give access to it, or move it out of the source"
    raise OSError(reason) from error


def relative(path: Path, source: Path) -> Path:
    """Return a file's path below the source, which may be the file itself."""
    return path.relative_to(source) if path != source else Path(path.name)
