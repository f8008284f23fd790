"""Calibration error of confidences, and temperature scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15
LOG_TEMPERATURES = (-4.0, 6.0)  # bounds of the fit: factors of 0.02 to 400


def calibration(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> dict[str, Any]:
    """Return the expected calibration error and the reliability curve (Guo et al., ICML 2017, arXiv:1706.04599, eq. 3).

    The error is the mean over equally wide bins of |accuracy - confidence|, weighted by the share of samples. A bin
    includes its upper end, the first also 0.

    Args:
        confidence: Probability of each prediction, [N], in [0, 1].
        correct: Whether each prediction is right, [N].
        bins: Number of bins.

    Returns:
        ``ece`` in [0, 1] and ``bins``, a list of ``confidence``, ``accuracy`` and ``count`` of each bin with samples.

    Raises:
        ValueError: There are no samples, lengths differ, or a confidence is outside of [0, 1].
    """
    probability, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if probability.size == 0 or probability.shape != right.shape:
        raise ValueError(
            f"calibration: needs as many confidences as outcomes, got {probability.size} and {right.size}"
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("calibration: confidences must be between 0 and 1")
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, bins - 1)
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
    """Return the temperature of maximum likelihood, by which logits [N, C] are divided (Guo et al. 2017, section 4.2).

    Raises:
        ValueError: There are no samples.
    """
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(target, dtype=np.int64)
    if truth.size == 0:
        raise ValueError("calibration: fitting a temperature needs at least one sample")

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
