"""Digests of the weights that arguments name: files of one name differ, and one file has many paths."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from experiments.shorthand import PROTOCOL, named_file
from export.provenance import sha256

DIGITS = 16


def content_digests(arguments: Iterable[str]) -> dict[str, str]:
    """Return the digests of the weights that arguments name; each evaluation records that of its prompts.

    Args:
        arguments: Arguments of ``python -m experiments train``.

    Returns:
        Option, ``--teacher`` or ``--student`` -> `content_digest`; of an option given twice that of the last.

    Raises:
        ValueError: One of the options has no value.
        FileNotFoundError: One of them names no file.
    """
    named = [found for argument in arguments if (found := named_file(argument)) is not None]
    weights = dict(pair for pair in named if pair[0] != PROTOCOL)
    return {option: content_digest(Path(value)) for option, value in weights.items()}


def content_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file or of a folder that `transformers` saved."""
    return sha256(path)[:DIGITS]
