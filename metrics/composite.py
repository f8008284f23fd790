"""The one number that selects a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metrics.bootstrap import RESAMPLES, f1_interval
from metrics.names import HC18, PLANES, SUBPLANES

CLASSES = {PLANES: 5, SUBPLANES: 3}  # F1 is averaged over the eight classes of both benchmarks


def composite_score(scores: Mapping[str, float]) -> float:
    """Return ``((5 F1_planes + 3 F1_subplanes) / 8 + validity / 100) / 2``, from the benchmarks given.

    Args:
        scores: Benchmark -> headline score: ``planes`` and ``subplanes`` macro F1 (0 to 1), ``hc18`` validity
            in percent. Without ``hc18`` the F1 part alone is the score, without both F1 the validity part;
            one F1 alone is the F1 part.

    Returns:
        The score, between 0 and 1.

    Raises:
        ValueError: There are no scores, or one belongs to no known benchmark.
    """
    unknown = sorted(set(scores) - {*CLASSES, HC18})
    if unknown or not scores:
        raise ValueError(
            f"composite score: needs one or more of {[*CLASSES, HC18]}, got {unknown or 'no scores'}"
        )
    parts = []
    weights = {name: count for name, count in CLASSES.items() if name in scores}
    if weights:
        parts.append(sum(count * scores[name] for name, count in weights.items()) / sum(weights.values()))
    if HC18 in scores:
        parts.append(scores[HC18] / 100)
    return sum(parts) / len(parts)


def eight_class_interval(
    parts: Sequence[tuple[Sequence[str], Sequence[str]]], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of macro F1 over the classes of several benchmarks together.

    The published evaluation appends the sub-planes' images to the planes' and resamples the images of both in
    one draw, so the interval cannot be had from those of the two benchmarks.

    Args:
        parts: True and predicted class names of each benchmark's N_k images, in the order of its table; the
            five planes first, then the sub-planes. Classes of different parts are different classes.
        resamples: Number of resamples.

    Returns:
        Lower and upper end, between 0 and 1.

    Raises:
        ValueError: There are no images, or names of one part differ in number.
    """
    truth = [(part, name) for part, (true, _) in enumerate(parts) for name in true]
    guess = [(part, name) for part, (_, predicted) in enumerate(parts) for name in predicted]
    if any(len(true) != len(predicted) for true, predicted in parts):
        raise ValueError("eight classes: true and predicted names differ in number")
    number = {name: position for position, name in enumerate(sorted({*truth, *guess}))}
    targets, predictions = ([number[name] for name in names] for names in (truth, guess))
    return f1_interval(targets, predictions, len(number), resamples)
