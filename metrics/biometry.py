"""Zero-shot fetal biometry: clinical validity of the gestational age predicted from a head.

Protocol of FetalCLIP (Maani et al. 2025, arXiv:2502.14807) on HC18 (van den Heuvel et al. 2018,
doi:10.1371/journal.pone.0200412): each image is compared with prompts for 175 ages, 14 weeks 0 days to
38 weeks 6 days. The predicted age is the median of the 15 most similar. It is valid when the true head circumference
lies within the WHO chart's 2.5th-97.5th centile at that age.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from .bootstrap import RESAMPLES, mean_interval
from .calibration import profile_age_days
from .growth_chart import gestational_age_weeks, within_chart
from .names import with_interval

AGES_DAYS: tuple[int, ...] = tuple(range(14 * 7, 39 * 7))  # 14w0d .. 38w6d, 175 ages
LOWEST_HC_MM, HIGHEST_HC_MM = 100.0, 342.0  # the chart's median at 14 and at 40 weeks


def predicted_age_days(similarity: Tensor) -> Tensor:
    """Return the predicted age in days [N]: the median of the 15 ages of `AGES_DAYS` of highest similarity [N, 175].

    Of equally similar ages the younger is taken first.

    Raises:
        ValueError: The shape is not [N, 175] or a value is not finite.
    """
    if similarity.ndim != 2 or similarity.shape[1] != len(AGES_DAYS):
        raise ValueError(f"biometry: similarity must be [N, {len(AGES_DAYS)}], not {list(similarity.shape)}")
    if not torch.isfinite(similarity).all():
        row = int((~torch.isfinite(similarity)).any(dim=1).nonzero()[0])
        raise ValueError(f"biometry: the similarities of row {row} are not finite; the model has diverged")
    ages = profile_age_days(similarity.detach().cpu().double().numpy(), np.array(AGES_DAYS))
    return torch.from_numpy(ages).to(similarity.device)


def in_reference_range(hc_mm: ArrayLike) -> NDArray[np.bool_]:
    """Return which head circumferences (mm) are assessed: 100 to 342 mm, both included."""
    measured = np.asarray(hc_mm, dtype=np.float64)
    return np.asarray((measured >= LOWEST_HC_MM) & (measured <= HIGHEST_HC_MM))


def biometry_scores(
    age_days: ArrayLike,
    hc_mm: ArrayLike,
    resamples: int = RESAMPLES,
    patients: Sequence[str] | None = None,
) -> dict[str, float]:
    """Score predicted ages (days, [N]) against true head circumferences (mm, [N]).

    Returns:
        ``validity`` with its interval (see `validity_score`), the counts ``valid`` and ``total`` (images in the
        assessed range), ``mae_weeks``, the mean absolute difference to the age at which the head circumference is the
        chart's median, and ``spearman``, the rank correlation of age and head circumference (zero when one of them
        is constant or fewer than three images are assessed).

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
    if patients is not None:
        patients = np.asarray(patients)[assessed].tolist()
    valid = within_chart(hc, age / 7)
    constant = hc.size < 3 or np.ptp(hc) == 0 or np.ptp(age) == 0
    return {
        **validity_score(valid, resamples, patients),
        "valid": int(valid.sum()),
        "total": int(valid.size),
        "mae_weeks": float(np.abs(age / 7 - gestational_age_weeks(hc)).mean()),
        "spearman": 0.0 if constant else float(spearmanr(age, hc).statistic),
    }


def validity_score(
    valid: NDArray[np.bool_],
    resamples: int = RESAMPLES,
    patients: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return ``validity``, the share of valid ages [N] in percent, and its bootstrap interval over images.

    With the patient of each image also that over patients, ``validity_patient_ci_low`` and ``_high``.
    """
    low, high = mean_interval(valid, resamples)
    over_patients = None
    if patients is not None:
        ends = mean_interval(valid, resamples, patients)
        over_patients = (ends[0] * 100, ends[1] * 100)
    return with_interval("validity", float(valid.mean() * 100), (low * 100, high * 100), over_patients)


def best_constant_age(hc_mm: ArrayLike) -> int:
    """Return the age in days that is valid for most of these heads (mm, [N]), the youngest of equals.

    For HC18's 814 assessed heads it is 20 weeks 1 day, valid for 481.
    """
    hc = np.asarray(hc_mm, dtype=np.float64)
    assessed = hc[in_reference_range(hc)]
    return max(AGES_DAYS, key=lambda days: within_chart(assessed, days / 7).sum())


def ages_by_pixel_size(
    fit_mm: ArrayLike, fit_hc_mm: ArrayLike, pixel_size_mm: ArrayLike
) -> NDArray[np.int64]:
    """Predict ages in days [N] from pixel sizes [N] alone: what a prompt with the spacing tells without the image.

    Isotonic regression of the chart's age on the pixel size (older fetuses are scanned deeper), over the M assessed
    heads to fit on.

    Args:
        fit_mm: Pixel sizes of the heads to fit on, [M], in mm.
        fit_hc_mm: Their head circumferences, [M], in mm; one or more are assessed.
        pixel_size_mm: Pixel sizes of the heads to predict, [N], in mm.
    """
    known, hc = np.asarray(fit_mm, dtype=np.float64), np.asarray(fit_hc_mm, dtype=np.float64)
    assessed = in_reference_range(hc)
    curve = IsotonicRegression(out_of_bounds="clip").fit(known[assessed], gestational_age_weeks(hc[assessed]))
    days = np.rint(7 * curve.predict(np.asarray(pixel_size_mm, dtype=np.float64)))
    return np.asarray(days.clip(AGES_DAYS[0], AGES_DAYS[-1]), dtype=np.int64)
