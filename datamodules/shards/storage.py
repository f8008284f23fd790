"""Open shards: local files directly, remote objects whole, through a bounded local cache, verified before use.

A remote object is fetched in blocks. A block that fails (5xx, a cut connection, no answer within `BLOCK_SECONDS`) is
fetched again with exponential back-off, until nothing has come for the time that the user set.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import webdataset as wds
from filelock import FileLock
from fsspec.asyn import sync
from fsspec.core import url_to_fs

from datamodules.redaction import PIPE, redacted
from datamodules.shards.manifest import MANIFEST, local_manifest, parse_manifest, shard_place
from models.files import atomic, digest
from models.messages import count, first_few, one_line

T = TypeVar("T")

BLOCK = 8 * 2**20  # bytes
BLOCK_SECONDS = 60.0  # a block that takes longer is fetched again
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds
LOOKUPS_AT_ONCE = 16  # objects that are looked up at a time
MOST_FETCHES = 3  # of an object whose content is not the manifest's

# Scheme -> extra of pyproject.toml, and options of its file system: the only retries are those of this file (gcsfs has
# five of its own, within a block's time), and the proxies are those of the environment.
SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "s3": ("s3", {"config_kwargs": {"retries": {"total_max_attempts": 1}}}),
    "gs": ("gs", {"session_kwargs": {"trust_env": True}}),
    "https": ("s3", {"client_kwargs": {"trust_env": True}}),
    "http": ("s3", {"client_kwargs": {"trust_env": True}}),
}
# Errors that no second try changes: of Python, by the status of HTTP, and of botocore, which is not imported here.
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, ValueError, TypeError)
REFUSALS = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError, 410: FileNotFoundError}
SETTINGS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError")
# Of S3, web servers and Google: a new mark, a new object.
MARKS = ("ETag", "LastModified", "Last-Modified", "generation")
# gcsfs looks for zonal buckets over gRPC, which does not survive the fork of a data worker, and logs tracebacks.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
_JITTER = random.SystemRandom()  # waiting must not advance the generators of the training


@dataclass(frozen=True)
class RemoteShard:
    """What a remote object must be: its size in bytes, its SHA-256 if the manifest has it, its version."""

    size: int
    sha256: str | None
    version: str

    @property
    def file_name(self) -> str:
        """Name in the cache."""
        return f"{self.sha256 or self.version}.tar"

    def fits(self, stream: BufferedReader) -> bool:
        """Return whether a file's content is this object's."""
        if os.fstat(stream.fileno()).st_size != self.size:
            return False
        return self.sha256 is None or hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256


@dataclass(frozen=True)
class ShardStorage:
    """Opens shards by URL.

    Attributes:
        cache: Folder of remote shards, shared by the processes of a machine.
        most_bytes: Size of the cache, beside the shards being fetched; the least recently used are removed.
        patience: Seconds without any success after which a request fails.
        remote: URL -> what the object must be; other URLs are local or commands.
    """

    cache: Path = Path("data/cache/shards")
    most_bytes: int = 50 * 10**9
    patience: float = 600.0
    remote: dict[str, RemoteShard] = field(default_factory=dict)

    def opened(self, urls: list[str]) -> Iterator[tuple[str, BinaryIO | Exception]]:
        """Yield each URL with its stream or its error, while the next one is fetched.

        Raises:
            OSError: The store does not answer, or refuses.
        """
        ahead: Future[BinaryIO] | None = None
        for url, following in zip(urls, [*urls[1:], None], strict=True):
            current = ahead or self._start(url)
            error = current.exception()
            if error is not None and url in self.remote and not isinstance(error, ValueError):
                raise error
            ahead = self._start(following) if following in self.remote else None
            yield url, error if isinstance(error, Exception) else current.result()

    def _start(self, url: str) -> Future[BinaryIO]:
        future: Future[BinaryIO] = Future()

        def work() -> None:
            try:
                future.set_result(self.open(url))
            except Exception as error:
                future.set_exception(error)

        Thread(target=work, daemon=True).start()  # so that the end of the program does not wait for a fetch
        return future

    def open(self, url: str) -> BinaryIO:
        """Open a shard; a remote one after its content was verified.

        Raises:
            OSError: It cannot be read: no such file, no answer, no permission.
            ValueError: Its content is not that of the manifest.
        """
        if url.startswith(PIPE):
            stream: BinaryIO = wds.gopen(url)
            return stream
        if url not in self.remote:
            return Path(url.removeprefix("file:")).open("rb")
        shard = self.remote[url]
        path = self.cache / shard.file_name
        for _ in range(MOST_FETCHES):
            if not path.is_file():
                self._fetch(url, shard, path)
            with suppress(FileNotFoundError):  # another process made room
                file = path.open("rb")
                if shard.fits(file):
                    os.utime(path)
                    file.seek(0)
                    return file
                file.close()
                path.unlink(missing_ok=True)
        raise ValueError(f"fetched {MOST_FETCHES} times, its content is not that of {MANIFEST} (SHA-256)")

    def _fetch(self, url: str, shard: RemoteShard, path: Path) -> None:
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            # Workers share the cache, and the fetch of an ended epoch may still run.
            with FileLock(self.cache / f".{path.stem}.lock"):
                if path.is_file():
                    return
                self._make_room(shard.size)
                self._download(url, shard, path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            raise OSError(
                f"{self.cache}: {error.strerror}; set data.shard_cache to another folder, or lower "
                "data.shard_cache_gb"
            ) from error

    def _download(self, url: str, shard: RemoteShard, path: Path) -> None:
        with atomic(path) as unfinished, unfinished.open("wb") as file:
            while (start := file.tell()) < shard.size:
                end = min(start + BLOCK, shard.size)
                file.write(self._retried(url, partial(_block, url, start, end, shard.size)))

    def _make_room(self, size: int) -> None:
        stale = time.time() - self.patience - 3600  # a fetch writes, or fails, within `patience`
        for path in self.cache.glob(".*.partial.tar"):  # of workers that were ended during a fetch
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < stale:
                    path.unlink()
        found = []
        for path in self.cache.glob("[!.]*.tar"):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total = size + sum(bytes_ for _, bytes_, _ in found)
        for _, bytes_, path in sorted(found):
            if total <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= bytes_

    def manifests(self, urls: list[str]) -> dict[str, dict[str, Any]]:
        """Return the manifest of each folder that shards lie in (see `shard_place`)."""
        firsts = {shard_place(url)[0]: url for url in reversed(urls)}
        return {folder: self._manifest(url) for folder, url in firsts.items()}

    def listed(self, urls: list[str]) -> dict[str, dict[str, Any]]:
        """Return what the manifest beside each shard says of it; shards that none lists are left out."""
        entries = {
            (folder, entry["name"]): entry
            for folder, manifest in self.manifests(urls).items()
            for entry in manifest.get("shards", [])
        }
        return {url: entries[place] for url in urls if (place := shard_place(url)) in entries}

    def _manifest(self, first: str) -> dict[str, Any]:
        """Return the manifest beside a shard; empty without one, with a warning for a remote shard."""
        if first.startswith(PIPE):
            return {}
        if not is_remote(first):
            folder = Path(first.removeprefix("file:")).parent
            return local_manifest(folder) if (folder / MANIFEST).is_file() else {}
        parts = urlsplit(first)
        if not PurePosixPath(parts.path).name:
            raise ValueError(
                f"data: {redacted(first)}: not a shard; give s3://bucket/corpus/pairs-{{000000..000041}}.tar"
            )
        url = parts._replace(path=str(PurePosixPath(parts.path).with_name(MANIFEST))).geturl()
        try:
            return parse_manifest(self._retried(url, partial(_ask, url, "_cat_file")), url)
        except (FileNotFoundError, PermissionError) as error:
            warnings.warn(f"{error}; the shards are verified by their size only", stacklevel=2)
            return {}

    def described(self, urls: list[str], listed: Mapping[str, Any]) -> dict[str, RemoteShard]:
        """Look at every remote URL, and return what each object must be.

        Args:
            urls: The shards.
            listed: Shard -> its entry in the manifest beside it (see `listed`).

        Raises:
            FileNotFoundError: Objects are missing.
            ValueError: An object's size is not the manifest's, or exceeds the cache.
        """
        with ThreadPoolExecutor(LOOKUPS_AT_ONCE) as pool:
            found = dict(zip(urls, pool.map(self._lookup, urls), strict=True))
        if missing := [redacted(url) for url, info in found.items() if not info]:
            raise FileNotFoundError(
                f"data: {len(missing)} of {count(len(urls), 'shard')} missing: {first_few(missing)}"
            )
        shards = {}
        for url, info in found.items():
            entry = listed.get(url, {})
            size, listed_size = info.get("size"), entry.get("bytes")
            if size is None and listed_size is None:
                raise ValueError(f"data: {redacted(url)}: neither the server nor {MANIFEST} gives its size")
            if size is not None and listed_size is not None and size != listed_size:
                raise ValueError(f"data: {redacted(url)}: {size} bytes, but {listed_size} in {MANIFEST}")
            size = listed_size if size is None else size
            if size > self.most_bytes:
                raise ValueError(f"data: {redacted(url)}: {size} bytes; raise data.shard_cache_gb")
            marks = {key: str(info[key]) for key in MARKS if key in info}
            shards[url] = RemoteShard(size, entry.get("sha256"), digest([redacted(url), size, marks]))
        return shards

    def _lookup(self, url: str) -> dict[str, Any]:
        """Return what the store says of an object; empty if there is none."""
        try:
            info: dict[str, Any] = self._retried(url, partial(_ask, url, "_info"))
        except FileNotFoundError:
            return {}
        return info if info["type"] == "file" else {}

    def _retried(self, url: str, request: Callable[[], T]) -> T:
        """Make a request until it succeeds, with exponential back-off, for `patience` seconds."""
        begun, wait = time.monotonic(), FIRST_WAIT
        while True:
            try:
                return request()
            except Exception as error:
                reason = one_line(redacted(f"{type(error).__name__}: {error}"), 250)
                if (kind := _permanent(error)) is not None:
                    raise kind(f"{redacted(url)}: {reason}") from None
                if time.monotonic() - begun > self.patience:
                    raise OSError(
                        f"{redacted(url)}: no success in {self.patience:g} s (data.shard_patience); "
                        f"last error: {reason}"
                    ) from None
                if wait == FIRST_WAIT:
                    warnings.warn(
                        f"{redacted(url)}: {reason}; trying again for {self.patience:g} s", stacklevel=2
                    )
            time.sleep(wait * _JITTER.uniform(0.5, 1))
            wait = min(2 * wait, LONGEST_WAIT)


def is_remote(url: str) -> bool:
    """Return whether a shard is fetched over the network.

    Raises:
        ValueError: Its scheme is unknown.
    """
    scheme, separator, _ = url.partition("://")
    if url.startswith(PIPE) or not separator or scheme == "file":
        return False
    if scheme.lower() not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(
            f"data: {redacted(url)}: shards are files, {known}, or pipe: with --data.allow_pipe=true"
        )
    return True


def _ask(url: str, method: str, **options: Any) -> Any:
    """Call a method of the URL's file system; what takes longer than `BLOCK_SECONDS` is an error."""
    extra, settings = SCHEMES[url.partition("://")[0].lower()]
    try:
        system, path = url_to_fs(url, **settings)
    except ImportError as error:
        raise ValueError(f"{one_line(error)}: pip install 'path/to/the/clone[{extra}]'") from None
    system.retries = 1
    return sync(system.loop, getattr(system, method), path, timeout=BLOCK_SECONDS, **options)


def _block(url: str, start: int, end: int, size: int) -> bytes:
    block: bytes = _ask(url, "_cat_file", start=start, end=end)
    whole = start == 0 and len(block) == size  # of a server that knows no ranges
    if len(block) != end - start and not whole:
        raise ConnectionError(f"{len(block)} bytes instead of {end - start}")
    return block


def _permanent(error: BaseException) -> type[Exception] | None:
    """Return the class of an error that further tries do not change; None for the others."""
    asked: Any = error
    if isinstance(error, FileNotFoundError) and error.__cause__ and not hasattr(error.__cause__, "response"):
        asked = error.__cause__  # fsspec's HTTP says "not found" of whatever a request for the size ends with
    status = getattr(asked, "status", getattr(asked, "code", None))
    if isinstance(status, int):  # of HTTP
        if status >= 500 or status in (408, 425, 429):
            return None
        return REFUSALS.get(status, OSError)
    if isinstance(asked, PERMANENT):
        return next(kind for kind in PERMANENT if isinstance(asked, kind))
    refused = str(asked).startswith("Forbidden: ")  # gcsfs says 403 in words alone
    if refused or type(asked).__name__ in SETTINGS:
        return PermissionError
    lasting = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG)
    return OSError if isinstance(asked, OSError) and asked.errno in lasting else None
