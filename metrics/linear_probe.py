"""Linear probing: how much of a label can a linear classifier read from frozen features?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SEEDS = (0, 1, 2, 3, 4)
TEST_SHARE = 0.2
MAX_ITERATIONS = 1000


def linear_probe(
    features: ArrayLike,
    labels: Sequence[str],
    patients: Sequence[str],
    seeds: Iterable[int] = SEEDS,
    test_share: float = TEST_SHARE,
) -> dict[str, Any]:
    """Fit logistic regression on standardised features of some patients and score it on the others.

    Args:
        features: Frozen image features [N, D].
        labels: Class of each image, N names.
        patients: Patient of each image, N names; no patient is on both sides of a split.
        seeds: Seeds of the splits.
        test_share: Share of the patients that is held out.

    Returns:
        ``f1`` (macro, over the classes among the held-out images; mean over seeds), ``f1_std`` (sample
        deviation, zero for a single seed), ``f1_by_seed``, ``classes`` and ``total``.

    Raises:
        ValueError: Lengths differ, there are fewer than two patients or classes, no seeds, or a split leaves
            fewer than two classes to learn from.
    """
    x, y, groups = np.asarray(features, dtype=np.float64), np.asarray(labels), np.asarray(patients)
    chosen = list(seeds)
    if not len(x) == len(y) == len(groups):
        raise ValueError(f"linear probe: {len(x)} features, {len(y)} labels and {len(groups)} patients")
    if len(set(labels)) < 2 or len(set(patients)) < 2 or not chosen:
        raise ValueError("linear probe: needs two or more classes, two or more patients, and a seed")
    scores = []
    for seed in chosen:
        splitter = GroupShuffleSplit(n_splits=1, test_size=test_share, random_state=seed)
        train, test = next(splitter.split(x, y, groups))
        if len(np.unique(y[train])) < 2:
            raise ValueError(f"linear probe: seed {seed} leaves one class to learn from; take more patients")
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS))
        prediction = probe.fit(x[train], y[train]).predict(x[test])
        present = np.unique(y[test])
        scores.append(float(f1_score(y[test], prediction, labels=present, average="macro", zero_division=0)))
    return {
        "f1": float(np.mean(scores)),
        "f1_std": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
        "f1_by_seed": dict(zip(map(str, chosen), scores, strict=True)),
        "classes": sorted(set(labels)),
        "total": len(y),
    }
