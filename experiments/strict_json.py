"""JSON as its standard has it, which knows no NaN: what has no value is null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def without_nan(value: Any) -> Any:
    """Return a copy of nested dictionaries and lists in which None stands for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(text: str) -> Any:
    """Read JSON, or what earlier versions wrote with ``NaN`` in it.

    Raises:
        json.JSONDecodeError: It is neither.
    """
    return without_nan(json.loads(text))
