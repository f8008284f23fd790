"""The files of a source, the secret, and the keyed hashes (HMAC-SHA256) that stand for identifiers."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import stat
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from models.messages import count

SECRET_VARIABLE = "SONODISTILL_SECRET"
LEAST_SECRET = 16  # characters
# Of a broken link, and of a file that was moved meanwhile.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def read_secret(file: Path | None, source: Path, out: Path) -> str:
    """Return the secret of a file or of the environment variable ``SONODISTILL_SECRET``.

    Raises:
        ValueError: There is none, it is short, or its file lies in the source or in the output folder.
    """
    if file is not None and any(file.resolve().is_relative_to(folder.resolve()) for folder in (source, out)):
        raise ValueError(f"{file}: keep the secret apart from the data, in neither {source} nor {out}")
    if file is not None and not file.exists():
        raise FileNotFoundError(f"{file}: no such file; openssl rand -hex 32 > {file} makes a secret")
    secret = (file.read_text(encoding="utf-8") if file else os.environ.get(SECRET_VARIABLE, "")).strip()
    if len(secret) < LEAST_SECRET:
        raise ValueError(
            f"{file or SECRET_VARIABLE}: the secret has {len(secret)} of at least {LEAST_SECRET} characters: "
            "openssl rand -hex 32 > FILE, then --secret-file=FILE"
        )
    return secret


def pseudonym(secret: str, kind: str, value: str) -> str:
    """Return the keyed hash, 16 hexadecimal digits, that stands for an identifier; `kind` is "patient" or "study"."""
    text = f"{kind}\0{value}".encode("utf-8", "surrogateescape")  # a file's name may be in another encoding
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()[:16]


def file_id(secret: str, path: str) -> str:
    """Return the hash that stands for a path below the source, however Windows or macOS would write it."""
    plain = unicodedata.normalize("NFC", path.replace("\\", "/")).removeprefix("./")
    return pseudonym(secret, "file", plain)


def list_files(source: Path, secret: str) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Yield the id, the path and the state of every file."""
    files, links = [source], 0
    if source.is_dir():
        # Unlike `Path.rglob`, this does not pass over a folder that cannot be read.
        walked = [(Path(folder), inner, names) for folder, inner, names in os.walk(source, onerror=_stop)]
        files = [folder / name for folder, _, names in walked for name in names]
        links = sum((folder / name).is_symlink() for folder, inner, _ in walked for name in inner)
    if links:
        warnings.warn(
            f"{source}: {count(links, 'link')} to folders not followed; copy those folders into the source, or ingest "
            "each into a new folder",
            stacklevel=2,
        )
    for path in files:
        try:
            state = path.stat()
        except OSError as error:
            if error.errno in _ABSENT:
                continue
            error.filename = path.parent  # a file's own name is not to be printed
            _stop(error)
        if stat.S_ISREG(state.st_mode):
            yield file_id(secret, relative(path, source).as_posix()), path, state


def _stop(error: OSError) -> NoReturn:
    reason = f"{error.filename}: cannot be read ({error.strerror}); give access to it, or move it out of the source"
    raise OSError(reason) from None


def relative(path: Path, source: Path) -> Path:
    """Return a file's path below the source, which may be the file itself."""
    return path.relative_to(source) if path != source else Path(path.name)
