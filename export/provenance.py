"""Hashes, package versions and converter warnings: what an artifact can be traced by."""

from __future__ import annotations

import hashlib
import logging
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch", "timm", "open_clip_torch", "onnx", "onnxscript", "onnxruntime", "coremltools", "openvino",
    "numpy",
)  # fmt: skip
CHUNK_BYTES = 1 << 20
EXPORTED, TRACED = "torch.export", "torch.jit.trace"  # ways of capturing a module


def package_versions() -> dict[str, str]:
    """Return the versions of everything that shapes an artifact; absent packages say so."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def sha256(path: Path) -> str:
    """Hash a file, or a folder (a Core ML package, a saved model) by the names and contents of all files in it.

    What is hidden does not count: macOS leaves a file in every folder that it shows, downloads a folder of notes.

    Raises:
        FileNotFoundError: There is neither.
    """
    if path.is_dir():
        total = hashlib.sha256()
        for name in sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file()):
            if not any(part.startswith(".") for part in name.parts):
                total.update(f"{name.as_posix()}\0{sha256(path / name)}\n".encode())
        return total.hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def size_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name}: {record.getMessage()}")


@contextmanager
def collected_warnings(messages: list[str]) -> Iterator[None]:
    """Append the distinct warnings of a block to `messages` instead of printing them."""
    found: list[str] = []
    handler = _Collector(found)
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers = [handler]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield
        found += [
            f"{item.category.__name__}: {item.message}"
            for item in caught
            if not issubclass(
                item.category, ResourceWarning
            )  # housekeeping of the libraries' temporary files
        ]
    finally:
        root.handlers = before
    lines = (" ".join(text.split())[:300] for text in found)
    messages += [line for line in dict.fromkeys(lines) if line not in messages]
