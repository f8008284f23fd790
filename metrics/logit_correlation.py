"""How alike two models see a batch: correlation of their logits, on and off the diagonal."""

from __future__ import annotations

import torch
from torch import Tensor


def pearson(a: Tensor, b: Tensor) -> float:
    """Return Pearson's correlation of two vectors [N], NaN when one of them is constant."""
    x, y = a.double() - a.double().mean(), b.double() - b.double().mean()
    norms = x.norm() * y.norm()
    return float(x @ y / norms) if norms > 0 else float("nan")


def logit_correlation(
    student: Tensor, teacher: Tensor, excluded: Tensor | None = None
) -> tuple[float, float]:
    """Correlate two models' similarity matrices, the matched and the mismatched pairs apart.

    Selective repulsion should leave the first high while it lowers the second: the "structured
    decorrelation" of Saeed et al., arXiv 2603.05421. Pearson's correlation ignores each model's logit scale
    and bias.

    Args:
        student: Logits [B, B], row i an image, column j a text; pair i = j is matched.
        teacher: Logits [B, B] of the same images and texts.
        excluded: Boolean [B, B], True for mismatched pairs to leave out, such as equal captions.

    Returns:
        Correlation over the diagonal and over the off-diagonal entries, each in [-1, 1] or NaN.

    Raises:
        ValueError: The matrices are not square, or differ in shape.
    """
    if student.shape != teacher.shape or student.ndim != 2 or student.shape[0] != student.shape[1]:
        raise ValueError(
            f"logit correlation: needs two [B, B] matrices, got {list(student.shape)} "
            f"and {list(teacher.shape)}"
        )
    mismatched = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    if excluded is not None:
        mismatched &= ~excluded
    return pearson(student.diagonal(), teacher.diagonal()), pearson(student[mismatched], teacher[mismatched])
