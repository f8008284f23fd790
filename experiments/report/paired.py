"""Two models on the same images: who is right where, and the difference of their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
SEED = 42

Row = Mapping[str, Any]
Pair = tuple[Row, Row]
Floats = NDArray[np.float64]
Total = Callable[[NDArray[Any]], Floats]


class Difference(NamedTuple):
    """A score's difference, and the 2.5th and 97.5th percentile of the differences over resampled patients."""

    value: float
    low: float
    high: float


def paired(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> list[Pair] | None:
    """Join the details of two evaluations image by image.

    Returns:
        Rows (first, second) of every image that counts; None unless both scored the very same images with the
        same truth.
    """
    if first is None or second is None:
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


def score_difference(pairs: Sequence[Pair], classification: bool) -> Difference:
    """Return the second model's score minus the first's with its 95 % bootstrap interval over patients.

    Whole patients are resampled, since images of one patient are alike. Both models keep the same draw, since
    their errors are correlated: intervals of the single scores would overstate the uncertainty.

    Args:
        pairs: Result of `paired`.
        classification: Score by macro F1 over the classes that occur (0 to 1), instead of the share of right
            images in percent.
    """
    patients, groups = np.unique([str(first["patient"]) for first, _ in pairs], return_inverse=True)
    count = len(patients)
    draws = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    weights = np.vstack([np.ones(count), draws])  # [R, P]; the first row is the sample as it is

    def total(marked: NDArray[Any]) -> Floats:
        """Add up a number of each image [N] under each row of weights, [R]."""
        return np.asarray(weights @ np.bincount(groups, weights=marked.astype(np.float64), minlength=count))

    score = _macro_f1 if classification else _percent_right
    before, after = (score(rows, total) for rows in zip(*pairs, strict=True))
    low, high = np.nanpercentile((after - before)[1:], [2.5, 97.5])
    return Difference(float(after[0] - before[0]), float(low), float(high))


def _percent_right(rows: Sequence[Row], total: Total) -> Floats:
    right = np.array([row["correct"] for row in rows])
    return np.asarray(100 * total(right) / np.maximum(total(np.ones(len(rows))), 1))


def _macro_f1(rows: Sequence[Row], total: Total) -> Floats:
    """Return macro F1; a class that was not drawn counts with zero, as in `metrics.bootstrap.f1_interval`."""
    target, prediction = (np.array([str(row[key]) for row in rows]) for key in ("target", "prediction"))
    scores = []
    for name in np.unique(target):
        true, guessed = target == name, prediction == name
        hits, either = total(true & guessed), total(true.astype(int) + guessed)
        scores.append(np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0))
    return np.asarray(np.mean(scores, axis=0))
