"""Two models on the same images: who is right where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Sample = Mapping[str, Any]
Pair = tuple[Sample, Sample]


def paired(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Pair] | None:
    """Join the details of two evaluations image by image.

    Returns:
        Rows (first, second) of every image that counts; None unless both scored the very same images with the
        same truth.
    """
    if not (first and second):
        return None
    rows, others = (
        {str(row["name"]): row for row in details["samples"] if row.get("assessed", True)}
        for details in (first, second)
    )
    if rows.keys() != others.keys() or any(rows[name]["target"] != others[name]["target"] for name in rows):
        return None
    return [(rows[name], others[name]) for name in rows]


def agreement(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Sort images by who is right: ``both``, ``neither``, ``gained`` (only the second), ``lost`` (only the first)."""
    groups: dict[str, list[Pair]] = {"neither": [], "gained": [], "lost": [], "both": []}
    for first, second in pairs:
        groups[[*groups][2 * bool(first["correct"]) + bool(second["correct"])]].append((first, second))
    return groups
