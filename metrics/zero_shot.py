"""Zero-shot classification scores over the classes that occur in the ground truth.

A prompt set may have classes without images (the official five-plane prompts have nine). An image predicted as one of
them is a miss of its true class; the absent classes themselves have no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from .bootstrap import f1_interval, f1_of_confusion
from .names import with_interval

TOP_K = (2, 3)


def target_rank(logits: NDArray[Any], target: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of the true class [N], from 0, by scores [N, C]; ties are broken by class number."""
    true = np.take_along_axis(logits, target[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None, :] < target[:, None]
    return np.asarray(((logits > true) | ((logits == true) & earlier)).sum(axis=1))


def classification_scores(
    logits: NDArray[Any], target: NDArray[np.int64], classes: Sequence[str], interval: bool = False
) -> dict[str, Any]:
    """Score zero-shot logits [N, C] against true class numbers [N].

    Args:
        logits: Similarity of each image with each class.
        target: True class numbers.
        classes: Names of the C classes.
        interval: Also give the bootstrap interval of `f1` (10,000 resamples; a second for 10,000 images).

    Returns:
        ``f1`` (macro), with `interval` its ends ``f1_ci_low`` and ``f1_ci_high``, ``accuracy``, ``balanced_accuracy``
        (mean recall of the classes), ``balanced_top2_accuracy`` and ``balanced_top3_accuracy`` (mean share of each
        class's images whose true class is among the k most similar; left out where k is not below C), ``total``, and
        nested: ``per_class`` (``f1``, ``precision``, ``recall``, ``support`` of each occurring class), ``classes`` and
        ``confusion_matrix`` [C, C], rows being true classes.

    Raises:
        ValueError: A logit is not finite.
    """
    if not np.isfinite(logits).all():
        row = int((~np.isfinite(logits)).any(axis=1).argmax())
        raise ValueError(
            f"zero-shot classification: the logits of row {row} are not finite; the model has diverged"
        )
    ranks = target_rank(logits, target)
    prediction = logits.argmax(axis=1)
    confusion = confusion_matrix(target, prediction, labels=range(len(classes)))
    present = np.unique(target)
    f1 = f1_of_confusion(confusion)
    predicted = confusion.sum(axis=0)
    per_class = {
        classes[c]: {
            "f1": float(f1[c]),
            "precision": float(confusion[c, c] / predicted[c]) if predicted[c] else 0.0,
            "recall": float((ranks[target == c] == 0).mean()),
            "support": int((target == c).sum()),
        }
        for c in present
    }
    scores: dict[str, Any] = {"f1": float(f1[present].mean())}
    if interval:
        scores = with_interval("f1", scores["f1"], f1_interval(target, prediction, len(classes)))
    scores["accuracy"] = float((ranks == 0).mean())
    for k in (1, *(k for k in TOP_K if k < len(classes))):
        name = "balanced_accuracy" if k == 1 else f"balanced_top{k}_accuracy"
        scores[name] = float(np.mean([(ranks[target == c] < k).mean() for c in present]))
    return scores | {
        "total": int(target.size),
        "per_class": per_class,
        "classes": list(classes),
        "confusion_matrix": confusion.tolist(),
    }
