"""Two models on the same images: who is right where, and how sure is the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
SEED = 42

Row = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """The images of one benchmark by who was right.

    Attributes:
        both: Both models right.
        neither: Both wrong.
        gained: Rows (reference's, model's) of images that the reference got wrong and the model right.
        lost: Rows of images that the reference got right and the model wrong.
    """

    both: int
    neither: int
    gained: list[tuple[Row, Row]]
    lost: list[tuple[Row, Row]]


@dataclass(frozen=True)
class Difference:
    """A model's score minus another's on the same images.

    Attributes:
        value: The difference, in the unit of the score.
        low: 2.5th percentile of the differences over resampled patients.
        high: 97.5th percentile.
        patients: Number of patients that were resampled.
    """

    value: float
    low: float
    high: float
    patients: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def assessed_rows(samples: Sequence[Row]) -> dict[str, Row]:
    """Return name -> row of the samples that count (heads outside of the assessed range do not)."""
    return {str(row["name"]): row for row in samples if row.get("assessed", True)}


def same_images(reference: Sequence[Row], samples: Sequence[Row]) -> bool:
    """Say whether two evaluations scored the very same images with the same truth."""
    first, second = assessed_rows(reference), assessed_rows(samples)
    return first.keys() == second.keys() and all(
        first[name]["target"] == second[name]["target"] for name in first
    )


def agreement(reference: Sequence[Row], samples: Sequence[Row]) -> Agreement:
    """Sort images by who was right; `same_images` must hold."""
    first, second = assessed_rows(reference), assessed_rows(samples)
    pairs = [(first[name], second[name]) for name in first]
    return Agreement(
        both=sum(a["correct"] and b["correct"] for a, b in pairs),
        neither=sum(not a["correct"] and not b["correct"] for a, b in pairs),
        gained=[(a, b) for a, b in pairs if b["correct"] and not a["correct"]],
        lost=[(a, b) for a, b in pairs if a["correct"] and not b["correct"]],
    )


def score_difference(reference: Sequence[Row], samples: Sequence[Row], classification: bool) -> Difference:
    """Return the difference of two models' scores with its 95 % bootstrap interval over patients.

    Whole patients are resampled, since images of one patient are alike, and both models keep the same
    draw, since their errors go together: intervals of the single scores would overstate the doubt.

    Args:
        reference: Rows of the model that is compared with (``name``, ``patient``, ``target``,
            ``prediction``, ``correct``, for heads ``assessed``).
        samples: Rows of the other model on the same images.
        classification: Macro F1 over the classes that occur (0 to 1), instead of the share of right images
            in percent.

    Returns:
        `samples`' score minus `reference`'s.
    """
    first, second = assessed_rows(reference), assessed_rows(samples)
    names = list(first)
    patients = sorted({str(first[name]["patient"]) for name in names})
    place = {patient: number for number, patient in enumerate(patients)}
    groups = np.array([place[str(first[name]["patient"])] for name in names])
    draws = np.random.default_rng(SEED).multinomial(
        len(patients), np.full(len(patients), 1 / len(patients)), size=RESAMPLES
    )
    weights = np.vstack([np.ones(len(patients)), draws])  # the first row is the sample as it is
    score = _macro_f1 if classification else _percent_right
    counted = [score([rows[name] for name in names], groups, weights) for rows in (first, second)]
    change = counted[1] - counted[0]
    low, high = np.nanpercentile(change[1:], [2.5, 97.5])
    return Difference(float(change[0]), float(low), float(high), len(patients))


def _percent_right(rows: Sequence[Row], groups: NDArray[np.int64], weights: Floats) -> Floats:
    right = np.bincount(groups, weights=[float(row["correct"]) for row in rows], minlength=weights.shape[1])
    total = np.bincount(groups, minlength=weights.shape[1])
    return np.asarray(100 * (weights @ right) / np.maximum(weights @ total, 1))


def _macro_f1(rows: Sequence[Row], groups: NDArray[np.int64], weights: Floats) -> Floats:
    """Return macro F1 under each row of patient weights [R, P].

    A class that was not drawn counts with zero, as in `metrics.bootstrap.f1_interval`.
    """
    classes = sorted({str(row["target"]) for row in rows})
    patients = weights.shape[1]
    scores = []
    for name in classes:
        true = np.array([row["target"] == name for row in rows])
        guessed = np.array([row["prediction"] == name for row in rows])
        hits, either = (
            weights @ np.bincount(groups, weights=counts.astype(np.float64), minlength=patients)
            for counts in (true & guessed, true.astype(int) + guessed.astype(int))
        )
        scores.append(np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0))
    return np.asarray(np.mean(scores, axis=0))
