"""Calibration: error of confidences, temperature scaling, "none of these", intervals of the age."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score, roc_curve

BINS = 15
TOP_AGES = 15  # ages of highest similarity, whose median is predicted
LOG_TEMPERATURES = (-4.0, 6.0)  # bounds of the fit: factors of 0.02 to 400


def reliability(confidence: ArrayLike, correct: ArrayLike) -> dict[str, Any]:
    """Return the expected calibration error and the reliability curve (Guo et al., ICML 2017, arXiv:1706.04599, eq. 3).

    The error is the mean over 15 equally wide bins of |accuracy - confidence|, weighted by the share of samples. A bin
    includes its upper end, the first also 0.

    Args:
        confidence: Probability of each prediction, [N], in [0, 1].
        correct: Whether each prediction is right, [N].

    Returns:
        ``ece`` in [0, 1] and ``bins``, a list of ``confidence``, ``accuracy`` and ``count`` of each bin with samples.
    """
    probability, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, BINS - 1)
    filled = [place == number for number in np.unique(place)]
    curve = [
        {
            "confidence": float(probability[chosen].mean()),
            "accuracy": float(right[chosen].mean()),
            "count": int(chosen.sum()),
        }
        for chosen in filled
    ]
    gaps = [abs(point["accuracy"] - point["confidence"]) * point["count"] for point in curve]
    return {"ece": float(sum(gaps) / probability.size), "bins": curve}


def fit_temperature(logits: ArrayLike, target: ArrayLike) -> float:
    """Return the temperature of maximum likelihood that divides logits [N, C] (Guo et al. 2017, section 4.2)."""
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(target, dtype=np.int64)

    def loss(log_temperature: float) -> float:
        chances = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(np.take_along_axis(chances, truth[:, None], axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded").x))


def cross_fitted_confidence(
    logits: ArrayLike, target: ArrayLike, patients: Sequence[str]
) -> NDArray[np.float64] | None:
    """Return the confidence of each prediction [N] with a temperature fitted on the other half of the patients.

    It estimates the calibration after a clinic fits the temperature on its own images. None for a single patient.
    """
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(target, dtype=np.int64)
    half = {name: place % 2 for place, name in enumerate(sorted(set(patients)))}
    side = np.array([half[name] for name in patients])
    if len(half) < 2:
        return None
    confidence = np.empty(len(truth))
    for own in (0, 1):
        temperature = fit_temperature(scores[side != own], truth[side != own])
        confidence[side == own] = np.exp(log_softmax(scores[side == own] / temperature, axis=1)).max(axis=1)
    return confidence


def max_minus_mean_logit(logits: NDArray[Any]) -> NDArray[Any]:
    """Return by how much the best class leads the mean of all classes: logits [N, C] to [N].

    Low where no class stands out, whatever the softmax temperature.
    """
    return np.asarray(logits.max(axis=1) - logits.mean(axis=1))


def rejection_threshold(known: ArrayLike, other: ArrayLike) -> float:
    """Return the threshold below which an image is "none of these": the one of highest balanced accuracy.

    Where none beats chance, all images are kept.

    Args:
        known: Scores of images of known classes, [N], higher for them.
        other: Scores of images of no known class, [M].
    """
    scores = np.concatenate([np.asarray(known, dtype=np.float64), np.asarray(other, dtype=np.float64)])
    truth = np.repeat([1, 0], [np.size(known), np.size(other)])
    accepted, kept, offered = roc_curve(truth, scores, drop_intermediate=False)
    best = offered[int((kept - accepted).argmax())]
    if not np.isfinite(best):  # the curve's first threshold, which rejects every image
        return float(scores.min())
    # Halfway to the next lower score, which is rejected: the threshold itself belongs to no image.
    return float((best + scores[scores < best].max()) / 2)


def rejection_scores(known: ArrayLike, other: ArrayLike, threshold: float) -> dict[str, float]:
    """Score a rejection: ``auroc``; shares at the threshold, ``kept`` of known and ``false_accept`` of other images."""
    truth = np.repeat([1, 0], [np.size(known), np.size(other)])
    return {
        "auroc": float(roc_auc_score(truth, np.concatenate([known, other]))),
        "kept": float((np.asarray(known) >= threshold).mean()),
        "false_accept": float((np.asarray(other) >= threshold).mean()),
    }


def profile_age_days(similarity: NDArray[Any], ages_days: NDArray[Any], top: int = TOP_AGES) -> NDArray[Any]:
    """Return the median [N] of the `top` ages [A] of highest similarity [N, A]; of equal ones the first counts."""
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :top]
    return np.asarray(ages_days)[np.sort(order, axis=1)[:, top // 2]]


def profile_interval(
    similarity: NDArray[Any], ages_days: NDArray[Any], drop: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the youngest and the oldest age [N] whose similarity [N, A] is at most `drop` below the highest."""
    near = similarity >= similarity.max(axis=1, keepdims=True) - drop
    ages = np.asarray(ages_days)
    return ages[near.argmax(axis=1)], ages[::-1][near[:, ::-1].argmax(axis=1)]


def age_similarity_gap(
    similarity: NDArray[Any], ages_days: NDArray[Any], true_days: NDArray[Any]
) -> NDArray[Any]:
    """Return how far the similarity at the true age [N] is below the highest of the profile [N, A].

    True ages beyond the profile's count as its first or last.
    """
    ages = np.asarray(ages_days)
    column = np.clip(np.rint(true_days).astype(int), ages[0], ages[-1]) - ages[0]
    return np.asarray(similarity.max(axis=1) - similarity[np.arange(len(similarity)), column])


def conformal_quantile(scores: ArrayLike, coverage: float) -> float | None:
    """Return the score that a new one exceeds with probability 1 - `coverage` at most; None for too few scores.

    Split conformal prediction (Vovk et al., 2005; Angelopoulos and Bates, arXiv:2107.07511, section 1).
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    rank = math.ceil((ordered.size + 1) * coverage)
    return None if rank > ordered.size else float(ordered[rank - 1])
