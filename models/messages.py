"""Text of messages: errors, names and lists from files, each as one line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def one_line(text: object, most: int = 160) -> str:
    """Return the text of an error or of a file's content as one line of at most `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def error_line(error: BaseException) -> str:
    """Return the kind and the message of an error on one line."""
    return one_line(f"{type(error).__name__}: {error}", 300)


def first_few(names: Sequence[str]) -> str:
    """Join the first five names of a list that may be long."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """Return ``"; did you mean X?"`` for the nearest name, or its value in a mapping; ``""`` if none is near."""
    names = known if isinstance(known, Mapping) else {name: name for name in known}
    close = get_close_matches(word, names, 1, likeness)
    return f"; did you mean {names[close[0]]}?" if close else ""


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


def count(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``"1 image"``, ``"2 images"``; `plural` is for nouns that do not just add an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
