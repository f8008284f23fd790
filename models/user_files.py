"""Check files that a user may have written or changed; every mistake is one line that names file and key."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from models.files import read_yaml

T = TypeVar("T")


def problems(error: ValidationError) -> str:
    """Return the errors of a pydantic model on one line, each with its key: ``protocol.rounds: Field required``."""
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"] if part != "[key]")
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] not in ("missing", "extra_forbidden", "value_error"):
            message += f", not {reprlib.repr(item['input'])}"
        lines.append(f"{place}: {message}" if place else message)
    return " ".join("; ".join(lines).split())


def read_settings(path: Path, kind: type[T], example: str) -> T:
    """Read a YAML file and check its content.

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
