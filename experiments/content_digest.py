"""Digests of weights and prompts that arguments name: files of one name differ, and one file has many paths."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from experiments.shorthand import PROTOCOL, named_file
from export.provenance import sha256

DIGITS = 16


def content_digests(arguments: Iterable[str]) -> dict[str, str]:
    """Return the digests of the weights and prompts that arguments name.

    Args:
        arguments: Arguments of ``python -m experiments train``.

    Returns:
        Option, ``--teacher``, ``--student`` or ``--protocol`` -> `content_digest`, of prompts `Protocol.digest`; of an
        option given twice that of the last.

    Raises:
        ValueError: One of the options has no value, or the prompts are no protocol.
        FileNotFoundError: One of them names no file.
    """
    named = dict(found for argument in arguments if (found := named_file(argument)) is not None)
    return {
        option: _prompts_digest(value) if option == PROTOCOL else content_digest(Path(value))
        for option, value in named.items()
    }


def _prompts_digest(path: str) -> str:
    from datamodules.protocol import Protocol  # here, because it imports PyTorch

    return Protocol.load(path).digest


def content_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file or of a folder that `transformers` saved."""
    return sha256(path)[:DIGITS]
