"""Bootstrap intervals: of one score, over images or patients, and of a difference of methods, over seeds and patients.

**One score.** FetalCLIP (Maani et al. 2025, arXiv:2502.14807) resamples images with ``numpy.random.default_rng(42)``
and takes the 2.5th and 97.5th percentile of 10,000 resampled scores. The same generator, order of draws and order of
samples give the same interval to the last digit. Images of one patient are alike: resampling whole patients, in the
order of their first image, is the honest interval where patients have several.

**A difference.** Both methods are trained with the same seeds and scored on the same images. Its variance is what
differs between seeds plus what the patients have in common over all seeds, as for any two crossed random factors
(Searle, Casella and McCulloch 1992, chapter 4), and at least that of sampling the patients with these seeds. Patients
are resampled, the same draw for all seeds and both methods; of the few seeds the sample variance is taken. Resampling
both together would count the chance of one seed with one patient three times (Owen 2007, doi:10.1214/07-AOAS122). The
quantiles of Student's t for seeds and for patients are averaged, weighted by their variances (Cochran and Cox 1950,
Experimental Designs). In simulated studies without a true difference, p is below 0.05 in 0 to 6 % of those with three
seeds and in 2 to 5 % of those with five.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

RESAMPLES = 10_000
SEED = 42
COMPARISON_RESAMPLES = 2000  # for a standard error: 1.6 % of it is noise
POWER = 0.8
LEAST_P = 1e-12  # smaller ones are 0
_DRAWS_AT_ONCE = 4_000_000  # bounds the memory of one block of resamples


def _resamples(size: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Yield blocks [R, size] of row numbers; the draws do not depend on the block size."""
    generator = np.random.default_rng(SEED)
    rows = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, resamples, rows):
        yield generator.integers(0, size, size=(min(rows, resamples - start), size))


def _patient_sums(
    table: NDArray[Any], patients: Sequence[str], resamples: int
) -> Iterator[NDArray[np.float64]]:
    """Yield blocks [R, K] of the column sums of a table [N, K], whole patients resampled."""
    groups, names = pd.factorize(np.asarray(patients))
    count = len(names)
    per_patient = np.zeros((count, table.shape[1]))
    np.add.at(per_patient, groups, table)
    for rows in _resamples(count, resamples):
        offsets = count * np.arange(len(rows))[:, None]
        drawn = np.bincount((rows + offsets).ravel(), minlength=rows.size).reshape(rows.shape)
        yield drawn.astype(np.float64) @ per_patient  # whole numbers: exact in any order


def _percentiles(scores: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def mean_interval(
    values: ArrayLike, resamples: int = RESAMPLES, patients: Sequence[str] | None = None
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of values [N]; their order takes part in the draw.

    With the patient of each value, whole patients are resampled; values are then 0 or 1.
    """
    samples = np.asarray(values, dtype=np.float64)
    if patients is None:
        means = [samples[rows].mean(axis=1) for rows in _resamples(samples.size, resamples)]
    else:
        table = np.column_stack([samples, np.ones_like(samples)])
        means = [total[:, 0] / total[:, 1] for total in _patient_sums(table, patients, resamples)]
    return _percentiles(np.concatenate(means))


def f1_interval(
    target: ArrayLike,
    prediction: ArrayLike,
    num_classes: int,
    resamples: int = RESAMPLES,
    patients: Sequence[str] | None = None,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of macro F1 over the classes that occur in `target`.

    A class that occurs but was not drawn counts with F1 zero, as in the published evaluation.

    Args:
        target: Class numbers, [N].
        prediction: Predicted class numbers, [N].
        num_classes: Number C of classes that can be predicted.
        resamples: Number of resamples.
        patients: Patient of each image, N names, to resample whole patients; None resamples images.
    """
    truth, guess = np.asarray(target, dtype=np.int64), np.asarray(prediction, dtype=np.int64)
    cells = truth * num_classes + guess
    present = np.unique(truth)
    scores = []
    drawn: Iterator[NDArray[Any]]
    if patients is None:
        drawn = _image_confusions(cells, num_classes**2, resamples)
    else:
        drawn = _patient_sums(np.eye(num_classes**2)[cells], patients, resamples)
    for counts in drawn:
        f1 = f1_of_confusion(counts.reshape(-1, num_classes, num_classes))[:, present]
        scores.append(np.ascontiguousarray(f1).mean(axis=1))  # a mean of each row has one order of sums
    return _percentiles(np.concatenate(scores))


def _image_confusions(cells: NDArray[np.int64], size: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Yield blocks [R, size] of counts of each cell of the confusion matrix, images resampled."""
    for rows in _resamples(cells.size, resamples):
        offsets = size * np.arange(len(rows))[:, None]  # of each resample's own matrix
        yield np.bincount((cells[rows] + offsets).ravel(), minlength=len(rows) * size).reshape(-1, size)


def f1_of_confusion(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Return each class's F1 [..., C] from counts [..., C, C], rows true; zero for a class that never occurs."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    either = confusion.sum(axis=-2) + confusion.sum(axis=-1)
    f1: NDArray[np.float64] = np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
    return f1


class Comparison(NamedTuple):
    """A difference of scores, its 95 % interval and two-sided p value, not corrected for further comparisons.

    ``detectable`` is the smallest true difference that the design finds with 80 % power at a two-sided 5 %:
    ``(t_0.975 + t_0.8) standard errors`` (Bloom 1995, doi:10.1177/0193841X9501900504), which is 2.8 standard errors
    with many seeds and 5.4 where three seeds make most of the spread; NaN where no possible difference is that large.
    """

    value: float
    low: float
    high: float
    p: float
    detectable: float
    seeds: int
    patients: int


def _scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores [R, S] from counts: percent right of [R, S, 2], macro F1 of [R, S, C, C].

    A class that never occurs does not count; one that was not drawn counts with F1 zero, as in `f1_interval`.
    """
    if counts.ndim == 3:
        return np.asarray(100 * counts[..., 0] / counts[..., 1])
    present = counts[0, 0].sum(axis=1) > 0
    return np.asarray(f1_of_confusion(counts)[..., present].mean(axis=-1))


def contrast(terms: Sequence[tuple[float, ArrayLike]], resamples: int = COMPARISON_RESAMPLES) -> Comparison:
    """Add up the scores of several methods, each times a factor: 1 and -1 for a difference.

    With one seed the interval is over patients alone and says nothing about other seeds. With one seed and one
    patient, interval, p value and detectable difference are NaN.

    Args:
        terms: Factor and counts of a method. Counts are those of each patient by seed: right and all images [S, P, 2]
            for scores in percent, or confusions [S, P, C, C], rows true, for macro F1. All have the same order of seeds
            and patients and are of the same images.
        resamples: Number of resamples.
    """
    methods = [(factor, np.asarray(counts)) for factor, counts in terms]
    seeds, patients = methods[0][1].shape[:2]
    generator = np.random.default_rng(SEED)
    drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=resamples)
    weights = np.vstack([np.ones(patients), drawn])  # [R, P]; the first row is the sample as it is
    # [R, S]: what each seed gives under each draw of patients.
    found: Any = sum(
        factor * _scores(np.tensordot(weights, counts, axes=(1, 1))) for factor, counts in methods
    )
    value, covariance = float(found[0].mean()), np.atleast_2d(np.cov(found[1:], rowvar=False))  # [S, S]
    # A bootstrap's variance of a mean is (P - 1) / P times the unbiased one.
    covariance *= patients / max(1, patients - 1)
    sampled = float(covariance.mean())  # of these seeds' mean, by the draw of patients alone
    if seeds == patients == 1:  # one number has no spread that could be known
        return Comparison(value, np.nan, np.nan, np.nan, np.nan, seeds, patients)
    parts = [(sampled, patients - 1)]  # variance and its degrees of freedom
    if seeds > 1:
        shared = max(0.0, float(covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1)))
        between = max(float(found[0].var(ddof=1)) / seeds, sampled - shared)
        parts = [(shared, patients - 1), (between, seeds - 1)]
    parts = [part for part in parts if part[0] > 0]
    if not parts:  # the same with every seed and patient
        p = 2.0 ** (1 - max(seeds, patients)) if value else 1.0  # of the sign test
        return Comparison(value, value, value, p, np.nan, seeds, patients)
    variance = sum(part for part, _ in parts)

    def distance(tail: float) -> float:
        """Return how far chance alone takes a difference to one side with this probability."""
        return float(sum(-part * stdtrit(freedom, tail) for part, freedom in parts) / variance**0.5)

    def beyond(p: float) -> float:
        return distance(p / 2) - abs(value)

    reach, detectable = distance(0.025), distance(0.025) + distance(1 - POWER)
    p = float(brentq(beyond, LEAST_P, 1)) if beyond(LEAST_P) > 0 else 0.0
    # With few patients Student's t reaches beyond what differences of scores can be.
    largest = 100.0 if methods[0][1].ndim == 3 else 1.0
    least, most = (largest * sum(end(factor, 0.0) for factor, _ in methods) for end in (min, max))
    low, high = max(least, value - reach), min(most, value + reach)
    return Comparison(value, low, high, p, detectable if detectable <= most else np.nan, seeds, patients)


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return p values [N] of one family, corrected by Holm's step-down method (1979); NaN stays and does not count."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")  # NaN comes last
    tested = np.count_nonzero(~np.isnan(values))
    stepped = np.maximum.accumulate(values[order] * (tested - np.arange(len(values))))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1)
    return corrected
