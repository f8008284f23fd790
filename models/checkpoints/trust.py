"""Restrict the classes that files may name: importing a class runs the code of its module."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import set_parsing_settings

from models.messages import one_line

ALLOWED = ("callbacks", "datamodules", "lightning_modules", "losses", "models", "lightning")
"""Packages whose classes are built without `TRUST`: this project's and Lightning."""
TRUST = "--trust"
DENIED = re.compile(r"Importing '(?P<path>[^']+)' is not allowed")  # message of jsonargparse
VARIABLE = "SONODISTILL_TRUST"  # an environment variable, so that child processes see it


def apply_trust(arguments: Sequence[str], closed: bool = True) -> None:
    """Apply ``--trust`` of a command line to this process and its children.

    With `closed`, jsonargparse, too, imports only classes of `ALLOWED` without ``--trust``, and of these only loaded
    packages: another could be a folder of that name in the working directory.
    """
    if {TRUST, f"{TRUST}=true"} & set(arguments):
        os.environ[VARIABLE] = "1"
    if closed and VARIABLE not in os.environ:
        loaded = [package for package in ALLOWED if package in sys.modules]
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=loaded)


def untrusted_message(class_path: object) -> str:
    """Return the one-line message for a class that is not trusted, with the remedy."""
    return (
        f"{one_line(class_path)} is not a class of this project or of lightning, and importing it would run its code; "
        f"if it is your own or you trust its author, add {TRUST} (ARGS={TRUST})"
    )


def untrusted_import(error: BaseException) -> str | None:
    """Return the `untrusted_message` for an import error of jsonargparse; None for any other error."""
    denied = DENIED.search(str(error))
    return None if denied is None else untrusted_message(denied["path"])


def check_classes(content: Any, source: str) -> None:
    """Reject a configuration from the file `source` that names an untrusted class at any depth. Nothing is imported.

    Raises:
        ValueError: It names one, and ``--trust`` is not given.
    """
    if isinstance(content, dict):
        if "class_path" in content:
            package = str(content["class_path"]).partition(".")[0]
            if VARIABLE not in os.environ and not (package in ALLOWED and package in sys.modules):
                raise ValueError(f"{source}: {untrusted_message(content['class_path'])}")
        content = list(content.values())
    if isinstance(content, list | tuple):
        for part in content:
            check_classes(part, source)


def resolve(class_path: str, source: str) -> Any:
    """Import the class or function that a file names."""
    check_classes({"class_path": class_path}, source)
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{source}: cannot import {class_path!r} ({error})") from error
