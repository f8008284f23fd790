"""Geometry of embedding spaces, and the similarity of two models' embeddings and logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Return the linear centred kernel alignment in [0, 1] of embeddings [N, D] and [N, E] of the same samples.

    Kornblith et al., ICML 2019, arXiv:1905.00414, section 3: ``||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` of centred
    columns; NaN when one model maps all samples to one point.
    """
    x, y = _centred(first), _centred(second)
    norms = (x.T @ x).norm() * (y.T @ y).norm()
    return float((y.T @ x).norm() ** 2 / norms) if norms > 0 else float("nan")


def effective_rank(embeddings: Tensor) -> float:
    """Return the exponentiated entropy of the normalised singular values of centred embeddings [N, D].

    Roy and Vetterli, "The effective rank", EUSIPCO 2007. Between 1 and min(N - 1, D); NaN if all are equal.
    """
    values = torch.linalg.svdvals(_centred(embeddings))
    if values.sum() <= 0:
        return float("nan")
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def class_distance_ratio(embeddings: Tensor, labels: Sequence[str]) -> float:
    """Return the mean cosine distance between classes over that within classes, of unit-length embeddings [N, D].

    Means are over all pairs of different samples, so large classes weigh more. NaN with one class only, or where no
    class has two samples.
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


def pearson(a: Tensor, b: Tensor) -> float:
    """Return Pearson's correlation of two vectors [N], NaN when one of them is constant."""
    x, y = a.double() - a.double().mean(), b.double() - b.double().mean()
    norms = x.norm() * y.norm()
    return float(x @ y / norms) if norms > 0 else float("nan")


def logit_correlation(
    student: Tensor, teacher: Tensor, excluded: Tensor | None = None
) -> tuple[float, float]:
    """Return Pearson's correlation of two models' logits, over matched and over mismatched pairs.

    Selective repulsion should keep the first high while it lowers the second: the "structured decorrelation" of
    Saeed et al., arXiv 2603.05421.

    Args:
        student: Logits [B, B], row i an image, column j a text; pair i = j is matched.
        teacher: Logits [B, B] of the same images and texts.
        excluded: Boolean [B, B], True for mismatched pairs to leave out, such as equal captions.
    """
    mismatched = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    if excluded is not None:
        mismatched &= ~excluded
    return pearson(student.diagonal(), teacher.diagonal()), pearson(student[mismatched], teacher[mismatched])


def _pair_distances(unit: Tensor) -> tuple[float, int]:
    """Return the sum of 1 - cosine over all pairs and their number, without forming the pairs."""
    count = len(unit)
    pairs = count * (count - 1) // 2
    products = (float(unit.sum(dim=0).square().sum()) - float(unit.square().sum())) / 2
    return pairs - products, pairs


def _centred(embeddings: Tensor) -> Tensor:
    values = embeddings.double()
    return values - values.mean(dim=0)
