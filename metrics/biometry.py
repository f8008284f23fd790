"""Zero-shot fetal biometry: clinical validity of the gestational age predicted from a head.

Protocol of FetalCLIP (Maani et al. 2025, arXiv:2502.14807) on HC18 (van den Heuvel et al. 2018,
doi:10.1371/journal.pone.0200412): each image is compared with prompts for 175 ages, 14 weeks 0 days to
38 weeks 6 days. The predicted age is the median of the 15 most similar. It is valid when the true head circumference
lies within the WHO chart's 2.5th-97.5th centile at that age.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from torch import Tensor

from metrics.bootstrap import RESAMPLES, SEED, mean_interval
from metrics.growth_chart import within_chart
from metrics.indexed import IndexedMetric
from metrics.names import with_interval

AGES_DAYS: tuple[int, ...] = tuple(range(14 * 7, 39 * 7))  # 14w0d .. 38w6d, 175 ages
TOP_AGES = 15
LOWEST_HC_MM, HIGHEST_HC_MM = 100.0, 342.0  # the chart's median at 14 and at 40 weeks


def predicted_age_days(similarity: Tensor, top: int = TOP_AGES) -> Tensor:
    """Return the predicted age in days [N]: the median of the `top` ages of `AGES_DAYS` of highest similarity [N, 175].

    Of equally similar ages the younger is taken first.

    Raises:
        ValueError: The shape is not [N, 175] or a value is not finite.
    """
    if similarity.ndim != 2 or similarity.shape[1] != len(AGES_DAYS):
        raise ValueError(f"biometry: similarity must be [N, {len(AGES_DAYS)}], not {list(similarity.shape)}")
    if not torch.isfinite(similarity).all():
        row = int((~torch.isfinite(similarity)).any(dim=1).nonzero()[0])
        raise ValueError(f"biometry: the similarities of row {row} are not finite; the model has diverged")
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :top]
    middle = order.sort(dim=1).values[:, top // 2]
    return middle + AGES_DAYS[0]


def in_reference_range(hc_mm: ArrayLike) -> NDArray[np.bool_]:
    """Return which head circumferences (mm) are assessed: 100 to 342 mm, both included."""
    measured = np.asarray(hc_mm, dtype=np.float64)
    return np.asarray((measured >= LOWEST_HC_MM) & (measured <= HIGHEST_HC_MM))


def biometry_scores(
    age_days: ArrayLike, hc_mm: ArrayLike, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, float]:
    """Score predicted ages (days, [N]) against true head circumferences (mm, [N]).

    Returns:
        ``validity`` with ``validity_ci_low`` and ``validity_ci_high`` in percent, the counts ``valid`` and ``total``
        (images in the assessed range), and ``spearman``, the rank correlation of age and head circumference (zero
        when one of them is constant or fewer than three images are assessed).

    Raises:
        ValueError: No image is in the assessed range.
    """
    hc, age = np.asarray(hc_mm, dtype=np.float64), np.asarray(age_days, dtype=np.float64)
    assessed = in_reference_range(hc)
    if not assessed.any():
        raise ValueError(
            f"biometry: none of {hc.size} images has a head circumference of "
            f"{LOWEST_HC_MM:g}-{HIGHEST_HC_MM:g} mm, so validity is undefined"
        )
    hc, age = hc[assessed], age[assessed]
    valid = within_chart(hc, age / 7)
    constant = hc.size < 3 or np.ptp(hc) == 0 or np.ptp(age) == 0
    return {
        **validity_score(valid, resamples, seed),
        "valid": int(valid.sum()),
        "total": int(valid.size),
        "spearman": 0.0 if constant else float(spearmanr(age, hc).statistic),
    }


def validity_score(
    valid: NDArray[np.bool_], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, float]:
    """Return ``validity``, the share of valid ages [N] in percent, and the ends of its bootstrap interval."""
    low, high = mean_interval(valid, resamples, seed)
    return with_interval("validity", float(valid.mean() * 100), (low * 100, high * 100))


def constant_age_scores(hc_mm: ArrayLike) -> dict[str, float]:
    """Score the constant age that is valid for most heads (mm, [N]), a baseline without a model.

    The age is chosen on these heads, the youngest of equals. For HC18's 814 assessed heads it is 20 weeks 1 day, valid
    for 481. Returns ``age_days`` and its `biometry_scores`.
    """
    hc = np.asarray(hc_mm, dtype=np.float64)
    assessed = hc[in_reference_range(hc)]
    best = max(AGES_DAYS, key=lambda days: within_chart(assessed, days / 7).sum())
    return {"age_days": best, **biometry_scores(np.full(hc.shape, best), hc)}


def constant_age_title(age_days: float) -> str:
    """Return the title of the constant baseline: ``constant age 20w1d``."""
    weeks, days = divmod(int(age_days), 7)
    return f"constant age {weeks}w{days}d"


class BiometryValidity(IndexedMetric):
    """Share of images whose zero-shot gestational age is plausible: `biometry_scores` as a metric.

    Example:
        >>> metric = BiometryValidity()
        >>> metric.update(torch.eye(175)[[70]], torch.tensor([176.0]))  # 24 weeks 0 days
        >>> metric.compute()["validity"]
        100.0
    """

    def __init__(self, resamples: int = RESAMPLES, seed: int = SEED, **kwargs: Any) -> None:
        fields = {"age_days": torch.empty(0, dtype=torch.int64), "hc_mm": torch.empty(0, dtype=torch.float64)}
        super().__init__(fields, **kwargs)
        self.resamples = resamples
        self.seed = seed

    def update(self, similarity: Tensor, head_circumference_mm: Tensor, index: Tensor | None = None) -> None:
        """Add images.

        Args:
            similarity: 100 * cosine with the prompts of each age, mean over templates, [N, 175].
            head_circumference_mm: True head circumference, [N], in mm.
            index: Sample numbers [N]; with them the result does not depend on the number of processes.
        """
        self.add_rows(index, age_days=predicted_age_days(similarity), hc_mm=head_circumference_mm)

    def compute(self) -> dict[str, float]:
        """Return `biometry_scores` over all images of all processes."""
        rows = self.rows()
        return biometry_scores(rows["age_days"], rows["hc_mm"], self.resamples, self.seed)
