"""Linear probes: logistic regression on frozen image features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SEEDS = (0, 1, 2, 3, 4)
TEST_SHARE = 0.2
MAX_ITERATIONS = 1000


class UndefinedProbeError(ValueError):
    """Too few classes or patients for a probe."""


def linear_probe(
    features: ArrayLike, labels: Sequence[str], patients: Sequence[str], seeds: Iterable[int] = SEEDS
) -> dict[str, Any]:
    """Fit logistic regression on standardised features of 80 % of the patients and score it on the others.

    Args:
        features: Frozen image features [N, D].
        labels: Class of each image, N names.
        patients: Patient of each image, N names; no patient is on both sides of a split.
        seeds: Seeds of the splits.

    Returns:
        ``f1`` (macro, over the classes among the held-out images; mean over seeds), ``f1_std`` (sample
        deviation, zero for a single seed), ``f1_by_seed``, ``classes`` and ``total``.

    Raises:
        UndefinedProbeError: There are fewer than two patients or classes, also within a split.
    """
    x, y, groups = _checked(features, labels, patients)
    splitters = {seed: GroupShuffleSplit(1, test_size=TEST_SHARE, random_state=seed) for seed in seeds}
    return _scored(x, y, {seed: next(one.split(x, y, groups)) for seed, one in splitters.items()})


def fixed_test_probe(
    features: ArrayLike,
    labels: Sequence[str],
    patients: Sequence[str],
    is_test: Sequence[bool],
    seeds: Iterable[int] = SEEDS,
) -> dict[str, Any]:
    """Fit logistic regression on standardised features of training patients and score it on fixed test images.

    Each seed fits on a bootstrap of the training patients (all images of each drawn patient), so the deviation is
    over training sets. A resample holds about two thirds of the patients, which lowers the score slightly; `f1_whole`
    uses all. A class absent from the training images scores zero; one absent from the test images does not count.

    Args:
        features: Frozen image features [N, D] of both sides.
        labels: Class of each image, N names.
        patients: Patient of each image, N names.
        is_test: Which of the N images are scored; the probe is fitted on the others.
        seeds: Seeds of the resamples.

    Returns:
        As `linear_probe`, and ``f1_whole``, ``unseen`` (classes of test images only), ``n_train`` and ``n_test``.

    Raises:
        ValueError: A patient is on both sides; the message names one.
        UndefinedProbeError: As `linear_probe`, or there is no test image.
    """
    x, y, groups = _checked(features, labels, patients)
    test = np.asarray(is_test, dtype=bool)
    train = np.flatnonzero(~test)
    shared = sorted(set(groups[train]) & set(groups[test]))
    if shared:
        raise ValueError(
            f"linear probe: patient {shared[0]} has training and test images ({len(shared)} such patients)"
        )
    fitted, shown = set(y[train].tolist()), set(y[test].tolist())
    names, patient = np.unique(groups[train], return_inverse=True)
    if not shown or len(fitted) < 2 or len(names) < 2:
        raise UndefinedProbeError(
            "linear probe: needs test images, and two or more classes and patients to learn from; has "
            f"{int(test.sum())}, {len(fitted)} and {len(names)}"
        )
    splits = {}
    for seed in seeds:
        drawn = np.random.default_rng(seed).integers(len(names), size=len(names))
        splits[seed] = np.repeat(train, np.bincount(drawn, minlength=len(names))[patient]), test
    return _scored(x, y, splits) | {
        "f1_whole": _score(x[train], y[train], x[test], y[test]),
        "unseen": sorted(shown - fitted),
        "n_train": len(train),
        "n_test": int(test.sum()),
    }


def _checked(
    features: ArrayLike, labels: Sequence[str], patients: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.str_], NDArray[np.str_]]:
    x, y, groups = np.asarray(features, dtype=np.float64), np.asarray(labels), np.asarray(patients)
    if len(set(labels)) < 2 or len(set(patients)) < 2:
        raise UndefinedProbeError("linear probe: needs two or more classes and two or more patients")
    return x, y, groups


def _score(
    x: NDArray[np.float64], y: NDArray[np.str_], held_x: NDArray[np.float64], held_y: NDArray[np.str_]
) -> float:
    """Fit on x [N, D] and y [N], and return macro F1 over the classes of the held-out images."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS))
    prediction = probe.fit(x, y).predict(held_x)
    present = np.unique(held_y)
    return float(f1_score(held_y, prediction, labels=present, average="macro", zero_division=0))


def _scored(
    x: NDArray[np.float64], y: NDArray[np.str_], splits: Mapping[int, tuple[NDArray[Any], NDArray[Any]]]
) -> dict[str, Any]:
    """Fit and score on the rows of each split: seed -> rows to fit on and rows to score."""
    scores = []
    for seed, (train, test) in splits.items():
        if len(np.unique(y[train])) < 2:
            raise UndefinedProbeError(
                f"linear probe: seed {seed} leaves one class to learn from; take more patients"
            )
        scores.append(_score(x[train], y[train], x[test], y[test]))
    return {
        "f1": float(np.mean(scores)),
        "f1_std": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
        "f1_by_seed": dict(zip(map(str, splits), scores, strict=True)),
        "classes": sorted(set(y.tolist())),
        "total": len(y),
    }
