"""Which classes a file may name that somebody else wrote: importing a class runs the code of its module."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jsonargparse import set_parsing_settings

ALLOWED = ("callbacks", "datamodules", "lightning_modules", "losses", "models", "lightning")
"""Packages whose classes are built without `TRUST`: this project's, and libraries that it imports itself."""
TRUST = "--trust"
DENIED = re.compile(r"Importing '(?P<path>[^']+)' is not allowed")  # as jsonargparse says it
VARIABLE = "SONODISTILL_TRUST"  # in the environment, so that it reaches the processes that a command starts


def settle_trust(arguments: Sequence[str], closed: bool = True) -> None:
    """Take ``--trust`` from a command line.

    Args:
        arguments: The command line.
        closed: Whether jsonargparse, too, imports classes of `ALLOWED` alone without it. Only packages that are
            loaded already count: none of them can then be found in the working directory.
    """
    if {TRUST, f"{TRUST}=true"} & set(arguments):
        os.environ[VARIABLE] = "1"
    if closed and VARIABLE not in os.environ:
        loaded = [package for package in ALLOWED if package in sys.modules]
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=loaded)


def refusal(class_path: object) -> str:
    """Say in one line why a class is not built, and what builds it."""
    return (
        f"{class_path} is no class of this project or of lightning, and importing it would run its code; "
        f"if it is your own or you trust its author, add {TRUST} (ARGS={TRUST})"
    )


def refused(error: BaseException) -> str | None:
    """Return the `refusal` behind an error of jsonargparse; None for any other error."""
    denied = DENIED.search(str(error))
    return None if denied is None else refusal(denied["path"])


def check_classes(content: Any, source: str) -> None:
    """Refuse a configuration that names a foreign class at any depth; nothing is imported.

    Args:
        content: The configuration, of dictionaries, lists and primitives.
        source: The file that it comes from.

    Raises:
        ValueError: It names one, and ``--trust`` is not given.
    """
    for class_path in _class_paths(content):
        package = str(class_path).partition(".")[0]
        if VARIABLE not in os.environ and not (package in ALLOWED and package in sys.modules):
            raise ValueError(f"{source}: {refusal(class_path)}")


def resolve(class_path: str, source: str) -> Any:
    """Import what a file names.

    Raises:
        ValueError: It is refused, as by `check_classes`, or is not there.
    """
    check_classes({"class_path": class_path}, source)
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{source}: cannot import {class_path!r} ({error})") from error


def _class_paths(content: Any) -> Iterator[object]:
    if isinstance(content, dict):
        if "class_path" in content:
            yield content["class_path"]
        content = list(content.values())
    if isinstance(content, list | tuple):
        for part in content:
            yield from _class_paths(part)
