"""Files: atomic writes, digests of content, YAML and JSON; versions of packages."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import node, python_version
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from models.messages import one_line, problems

T = TypeVar("T")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, of the same suffix, which replaces `path` when the block succeeds.

    The folder is created. After an error `path` is as it was, and the temporary file is removed; one that a killed
    process of this machine has left is removed, too.
    """
    partial = _partial(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    """Return a path next to `path` that names this machine and process; remove those of processes that have ended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start, end = f".{path.stem}.{node()}-", f".partial{path.suffix}"
    for other in path.parent.glob(f"{glob.escape(start)}*{glob.escape(end)}"):
        process = other.name.removeprefix(start).removesuffix(end)
        # Machine "gpu-2" starts its names as "gpu" does.
        if process.isdecimal() and not _is_alive(int(process)):
            if other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink(missing_ok=True)
    return path.with_name(f"{start}{os.getpid()}{end}")


def _is_alive(process: int) -> bool:
    """Return whether a process of this machine is alive."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True


def replace_folder(partial: Path, target: Path) -> None:
    """Move a finished folder to the place of an older one, which stays until then."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder next to `target`, which replaces `target` when the block succeeds and else is removed.

    One that a killed process of this machine has left is removed, too.
    """
    partial = _partial(target)
    shutil.rmtree(partial, ignore_errors=True)  # of an earlier process with this number
    try:
        partial.mkdir()
    except OSError as error:  # name the folder that was asked for
        raise OSError(error.errno, error.strerror, str(target)) from None
    try:
        yield partial
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which PyYAML would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        twice = [key for place, key in enumerate(keys) if key in keys[:place]]
        if twice:
            raise ValueError(f"line {node.start_mark.line + 1}: the key {twice[0]} is given twice")
        return super().construct_mapping(node, deep)  # type: ignore[no-untyped-call]


def read_yaml(path: Path) -> Any:
    """Read a YAML file, as primitives.

    Raises:
        ValueError: It is not YAML, or gives a key twice; the message is one line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # nosec B506  # a SafeLoader
    except OSError:
        raise
    except Exception as error:  # PyYAML raises what int, datetime and the recursion raise
        raise ValueError(
            f"{path}: not YAML ({one_line(error)}); correct it, restore it, or move it away"
        ) from error


def read_settings(path: Path, kind: type[T], example: str) -> T:
    """Read a YAML file that a user has written and check its content; a mistake is one line that names file and key.

    Args:
        path: The file.
        kind: What it holds: a pydantic model, or another type that pydantic can check.
        example: A file to look at, for the message.

    Raises:
        FileNotFoundError: It is absent.
        ValueError: It is not YAML, or not of this kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; example: {example}")
    try:
        return TypeAdapter(kind).validate_python(read_yaml(path))
    except ValidationError as error:
        raise ValueError(f"{path}: {problems(error)} (example: {example})") from error


def write_json(path: Path, value: Any) -> None:
    """Write standard JSON atomically: NaN and infinity become null."""
    write_text(path, json.dumps(without_nan(value), indent=2, ensure_ascii=False) + "\n")


def without_nan(value: Any) -> Any:
    """Return a copy of nested dictionaries and lists in which None stands for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder by the names and contents of its files; hidden ones do not count."""
    if path.is_dir():
        total = hashlib.sha256()
        for name in sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file()):
            if not any(part.startswith(".") for part in name.parts):
                total.update(f"{name.as_posix()}\0{sha256(path / name)}\n".encode())
        return total.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def package_versions(*names: str) -> dict[str, str]:
    """Return the versions of Python and of distributions (``"torch"``); "not installed" where one is absent."""
    versions = {"python": python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
