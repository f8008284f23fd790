"""Row-wise softmax distributions over the pairs of a batch, and cross-entropies and divergences between them.

Shape letters: b rows of this process, B columns of the joint batch; row i matches column ``first_row + i``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import JointBatch


def teacher_and_student(
    student: JointBatch, teacher: JointBatch, temperature: float, standardized: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Return (p [b, B], log q [b, B]) for image-to-text and for text-to-image.

    p is the row softmax of the teacher's logits divided by `temperature`, q that of the student's logits, NOT
    divided. When `standardized`, rows of both models are scaled to zero mean and unit deviation and both are
    divided (Sun et al., CVPR 2024).
    """
    pairs = []
    for student_logits, teacher_logits in (
        (student.image_logits, teacher.image_logits),
        (student.text_logits, teacher.text_logits),
    ):
        if standardized:
            student_logits = standardize(student_logits) / temperature
            teacher_logits = standardize(teacher_logits)
        p = torch.softmax(teacher_logits / temperature, dim=1)
        pairs.append((p, torch.log_softmax(student_logits, dim=1)))
    return pairs


def standardize(logits: Tensor) -> Tensor:
    """Scale each row of `logits` [b, B] to zero mean and unit (population) standard deviation.

    Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, equation 9.
    """
    variance, mean = torch.var_mean(logits, dim=1, keepdim=True, correction=0)
    # The constant keeps the gradient finite on a constant row (a collapsed model).
    return (logits - mean) * torch.rsqrt(variance + 1e-12)


def matched_cross_entropy(log_q: Tensor, first_row: int, positives: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of rows with their matching columns, a scalar.

    ``-(1/b) sum_i log q_ii``, or with `positives` ``-(1/b) sum_i (1/|P_i|) sum_{j in P_i} log q_ij``.

    Args:
        log_q: Log-probabilities [b, B].
        first_row: Column that matches row 0.
        positives: Bool [b, B], True on the correct columns (the matched one among them), or None.
    """
    if positives is None:
        return -log_q.diagonal(offset=first_row).mean()
    share = positives.to(log_q.dtype)
    share = share / share.sum(dim=1, keepdim=True)
    return -(share * log_q).sum(dim=1).mean()


def contrastive_cross_entropy(
    batch: JointBatch, multi_positive: bool, logits: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Return CLIP's loss of `batch`, the mean over both directions: see `losses.CLIPLoss`.

    `logits` [b, B], image-to-text and text-to-image, stand for those of the batch.
    """
    positives = batch.same_caption if multi_positive else None
    directions = [
        matched_cross_entropy(torch.log_softmax(one, dim=1), batch.first_row, positives)
        for one in logits or (batch.image_logits, batch.text_logits)
    ]
    return (directions[0] + directions[1]) / 2


def kl_divergence(p: Tensor, log_q: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Return ``(1/b) sum_ij p_ij (log p_ij - log q_ij)``, a scalar, without the pairs of `excluded` (bool [b, B])."""
    summands = torch.xlogy(p, p) - p * log_q
    if excluded is not None:
        summands = summands.masked_fill(excluded, 0.0)
    return summands.sum(dim=1).mean()


def diagonal_cross_entropy(p: Tensor, log_q: Tensor, first_row: int) -> Tensor:
    """Return ``-(1/b) sum_i p_ii log q_ii``, a scalar: agreement on the matched pairs."""
    return -(p.diagonal(offset=first_row) * log_q.diagonal(offset=first_row)).mean()


def off_diagonal_cross_entropy(
    p: Tensor, log_q: Tensor, first_row: int, excluded: Tensor | None = None
) -> Tensor:
    """Return ``-(1/b) sum_{i, j != i} p_ij log q_ij``, a scalar: agreement on the confusions.

    `excluded`, bool [b, B], marks other pairs to leave out (equal captions).
    """
    if excluded is None:
        excluded = torch.zeros_like(p, dtype=torch.bool)
    own = torch.zeros_like(excluded)
    own.diagonal(offset=first_row).fill_(True)
    return -(p * log_q).masked_fill(excluded | own, 0.0).sum(dim=1).mean()
