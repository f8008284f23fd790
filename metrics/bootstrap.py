"""Percentile bootstrap intervals, over images with the draws of the published evaluation, and over patients.

FetalCLIP (Maani et al. 2025, arXiv:2502.14807) resamples images with ``numpy.random.default_rng(42)`` and takes
the 2.5th and 97.5th percentile of 10,000 resampled scores. The same generator, order of draws and order of
samples give the same interval to the last digit. Images of one patient are alike: resampling whole patients, in the
order of their first image, is the honest interval where patients have several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
SEED = 42
_DRAWS_AT_ONCE = 4_000_000  # bounds the memory of one block of resamples


def _resamples(size: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield blocks [R, size] of row numbers; the draws do not depend on the block size."""
    generator = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, resamples, rows):
        yield generator.integers(0, size, size=(min(rows, resamples - start), size))


def _patient_sums(
    table: NDArray[Any], patients: Sequence[str], resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Yield blocks [R, K] of the column sums of a table [N, K], whole patients resampled."""
    groups, names = pd.factorize(np.asarray(patients))
    count = len(names)
    per_patient = np.zeros((count, table.shape[1]))
    np.add.at(per_patient, groups, table)
    for rows in _resamples(count, resamples, seed):
        offsets = count * np.arange(len(rows))[:, None]
        drawn = np.bincount((rows + offsets).ravel(), minlength=rows.size).reshape(rows.shape)
        yield drawn.astype(np.float64) @ per_patient  # whole numbers: exact in any order


def _percentiles(scores: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def mean_interval(
    values: ArrayLike, resamples: int = RESAMPLES, seed: int = SEED, patients: Sequence[str] | None = None
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of values [N]; their order takes part in the draw.

    With the patient of each value, whole patients are resampled; values are then 0 or 1.

    Raises:
        ValueError: There are no values.
    """
    samples = np.asarray(values, dtype=np.float64)
    if samples.size == 0:
        raise ValueError("bootstrap: no values to resample")
    if patients is None:
        means = [samples[rows].mean(axis=1) for rows in _resamples(samples.size, resamples, seed)]
    else:
        table = np.column_stack([samples, np.ones_like(samples)])
        means = [total[:, 0] / total[:, 1] for total in _patient_sums(table, patients, resamples, seed)]
    return _percentiles(np.concatenate(means))


def f1_interval(
    target: ArrayLike,
    prediction: ArrayLike,
    num_classes: int,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    patients: Sequence[str] | None = None,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of macro F1 over the classes that occur in `target`.

    A class that occurs but was not drawn counts with F1 zero, as in the published evaluation.

    Args:
        target: Class numbers, [N].
        prediction: Predicted class numbers, [N].
        num_classes: Number C of classes that can be predicted.
        resamples: Number of resamples.
        seed: Seed of numpy's default generator.
        patients: Patient of each image, N names, to resample whole patients; None resamples images.

    Raises:
        ValueError: There are no samples.
    """
    truth, guess = np.asarray(target, dtype=np.int64), np.asarray(prediction, dtype=np.int64)
    if truth.size == 0:
        raise ValueError("bootstrap: no values to resample")
    cells = truth * num_classes + guess
    present = np.unique(truth)
    scores = []
    drawn: Iterator[NDArray[Any]]
    if patients is None:
        drawn = _image_confusions(cells, num_classes**2, resamples, seed)
    else:
        drawn = _patient_sums(np.eye(num_classes**2)[cells], patients, resamples, seed)
    for counts in drawn:
        f1 = f1_of_confusion(counts.reshape(-1, num_classes, num_classes))[:, present]
        scores.append(np.ascontiguousarray(f1).mean(axis=1))  # a mean of each row has one order of sums
    return _percentiles(np.concatenate(scores))


def _image_confusions(
    cells: NDArray[np.int64], size: int, resamples: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Yield blocks [R, size] of counts of each cell of the confusion matrix, images resampled."""
    for rows in _resamples(cells.size, resamples, seed):
        offsets = size * np.arange(len(rows))[:, None]  # of each resample's own matrix
        yield np.bincount((cells[rows] + offsets).ravel(), minlength=len(rows) * size).reshape(-1, size)


def f1_of_confusion(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Return each class's F1 [..., C] from counts [..., C, C], rows true; zero for a class that never occurs."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    either = confusion.sum(axis=-2) + confusion.sum(axis=-1)
    f1: NDArray[np.float64] = np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
    return f1
