"""Hold what a run stores and logs against docs/metrics.md: its keys, and the schema of results.json."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"
SCHEMA = "## results.json"
PLACEHOLDERS = {
    "MODEL": "(?:student|teacher|random|val|val/teacher)",
    "PLANES": "(?:planes|subplanes)",
    "TASK": "(?:views|subplanes)",
    "TERM": "[a-z_]+",
}
TYPES = {"string": str, "number": (int, float), "integer": int, "boolean": bool, "list": list, "object": dict}


@cache
def _tables() -> tuple[list[str], dict[str, str]]:
    """Return the keys that the page defines, and path -> type of its schema."""
    text, _, schema = PAGE.read_text(encoding="utf-8").partition(SCHEMA)
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    keys = [key for cell in first for key in re.findall(r"`([^`]+/[^`]+)`", cell)]
    cells = [[cell.strip() for cell in line.split("|")] for line in schema.splitlines() if "| `" in line]
    return keys, {row[1].strip("`"): row[2] for row in cells}


def undocumented_keys(names: Iterable[str]) -> list[str]:
    """Return the names of numbers that the page does not define."""
    filled = [re.sub("|".join(PLACEHOLDERS), lambda word: PLACEHOLDERS[word[0]], key) for key in _tables()[0]]
    return [name for name in names if not any(re.fullmatch(pattern, name) for pattern in filled)]


def violations(record: dict[str, Any]) -> list[str]:
    """Return every path of a results.json that the schema lacks, or whose type is another one."""
    schema = [(known.split("."), kind) for known, kind in _tables()[1].items()]
    wrong = []
    for path, value in _walk((), record):
        fitting = [kind for known, kind in schema if _fits(known, path)]
        if not any(_is(value, word) for kind in fitting for word in kind.split(" or ")):
            wrong.append(f"{'.'.join(path)} ({type(value).__name__}, documented as {fitting})")
    return wrong


def documented_top_level() -> set[str]:
    """Return the keys of results.json that the schema has."""
    return {path for path in _tables()[1] if "." not in path}


def _walk(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk((*path, key), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk((*path, "[]"), inner)


def _fits(known: list[str], path: tuple[str, ...]) -> bool:
    return len(known) == len(path) and all(map(_stands_for, known, path))


@cache
def _stands_for(word: str, name: str) -> bool:
    if word == "SCORE":
        return name == "count" or name in {key.rsplit("/", 1)[1] for key in _tables()[0]}
    pattern = PLACEHOLDERS.get(word)
    return word == name or (word.isupper() if pattern is None else bool(re.fullmatch(pattern, name)))


def _is(value: Any, word: str) -> bool:
    if value is None or isinstance(value, bool):
        return word == {None: "null"}.get(value, "boolean")
    return word != "null" and isinstance(value, TYPES[word])
