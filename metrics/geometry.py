"""The shape of an embedding space, and how alike two of them are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Return the linear centred kernel alignment of two models' embeddings of the same samples.

    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv:1905.00414,
    section 3: ``||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` of centred columns.

    Args:
        first: Embeddings [N, D].
        second: Embeddings [N, E] of the same samples in the same order; E may differ from D.

    Returns:
        Alignment in [0, 1]; NaN when one model maps all samples to one point.

    Raises:
        ValueError: The numbers of samples differ.
    """
    if len(first) != len(second):
        raise ValueError(f"CKA: needs the same samples, got {len(first)} and {len(second)}")
    x, y = _centred(first), _centred(second)
    norms = (x.T @ x).norm() * (y.T @ y).norm()
    return float((y.T @ x).norm() ** 2 / norms) if norms > 0 else float("nan")


def effective_rank(embeddings: Tensor) -> float:
    """Return the number of dimensions that embeddings really use.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007: the
    exponential of the entropy of the normalised singular values, here of the centred embeddings.

    Args:
        embeddings: Embeddings [N, D].

    Returns:
        Between 1 and min(N - 1, D); NaN when all embeddings are equal.
    """
    values = torch.linalg.svdvals(_centred(embeddings))
    if values.sum() <= 0:
        return float("nan")
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def class_distance_ratio(embeddings: Tensor, labels: Sequence[str]) -> float:
    """Return the mean cosine distance between classes over that within classes; larger is better separated.

    Means are over all pairs of different samples, so large classes weigh more.

    Args:
        embeddings: Unit-length embeddings [N, D].
        labels: Class of each sample, N names.

    Returns:
        The ratio; NaN when there is only one class, or no class has two samples.
    """
    unit = embeddings.double()
    groups = [unit[torch.as_tensor(np.asarray(labels) == name)] for name in sorted(set(labels))]
    within, pairs_within = 0.0, 0
    for group in groups:
        total, pairs = _pair_distances(group)
        within, pairs_within = within + total, pairs_within + pairs
    everywhere, pairs = _pair_distances(unit)
    between, pairs_between = everywhere - within, pairs - pairs_within
    if not pairs_within or not pairs_between or within <= 0:
        return float("nan")
    return (between / pairs_between) / (within / pairs_within)


def _pair_distances(unit: Tensor) -> tuple[float, int]:
    """Return the sum of 1 - cosine over all pairs and their number, without forming the pairs."""
    count = len(unit)
    pairs = count * (count - 1) // 2
    products = (float(unit.sum(dim=0).square().sum()) - float(unit.square().sum())) / 2
    return pairs - products, pairs


def _centred(embeddings: Tensor) -> Tensor:
    values = embeddings.double()
    return values - values.mean(dim=0)
