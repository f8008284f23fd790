"""How far a model's confidence can be believed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

BINS = 15


def calibration(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> dict[str, Any]:
    """Return the expected calibration error and the reliability curve.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599, equation 3: the mean
    over equally wide bins of |accuracy - confidence|, weighted by the share of samples.

    Args:
        confidence: Probability of each prediction, [N], in [0, 1].
        correct: Whether each prediction is right, [N].
        bins: Number of bins; one holds its upper end, the first one also 0.

    Returns:
        ``ece`` in [0, 1] and ``bins``, a list of ``confidence``, ``accuracy`` and ``count`` of each bin that
        holds samples, by rising confidence.

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
