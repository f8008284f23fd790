"""The order in which ways of doing one thing are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def in_turns(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call ways of doing one thing in turns; every other one runs backwards, so that none always follows the same.

    Args:
        ways: Name -> function without arguments.
        rounds: Number of turns.

    Returns:
        Name -> what its function returned in each round.
    """
    found: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else list(reversed(ways)):
            found[name].append(ways[name]())
    return found
