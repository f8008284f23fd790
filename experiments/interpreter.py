"""This very Python and its programs, as a shell without an activated environment takes them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any


def python_here() -> str:
    """Return how a shell in the working directory calls this Python: ``.venv/bin/python`` where make runs it."""
    return _from_here(Path(sys.executable))


def program_here(name: str) -> str:
    """Return how a shell in the working directory calls a program installed beside this Python."""
    return _from_here(Path(sys.executable).with_name(name))


def arguments_here() -> list[str]:
    """Return the arguments of this process, its paths from the working directory: repeatable in another clone."""
    inside = rf"(?<![\w./-]){re.escape(str(Path.cwd()))}/"
    return [re.sub(inside, "", argument) for argument in sys.argv[1:]]


def without_secrets(value: Any) -> Any:
    """Return what `datamodules.redaction.redacted` returns; where no URL is, nobody waits for PyTorch."""
    if not re.search("://|pipe:", str(value)):
        return value
    from datamodules.redaction import redacted

    return redacted(value)


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
