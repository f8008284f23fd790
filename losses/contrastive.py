"""Contrastive losses without a teacher: the softmax of CLIP and the sigmoid of SigLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from .base import Loss
from .batch import JointBatch
from .distributions import contrastive_cross_entropy


class CLIPLoss(Loss):
    """Symmetric contrastive cross-entropy (Radford et al., CLIP, ICML 2021, figure 3).

    ``L = -(1/B) sum_i log q_ii`` with q = row softmax of ``logit_scale * <image_i, text_j>``, averaged over
    image-to-text and text-to-image. With `multi_positive`, the target of row i is uniform over all columns with the
    same caption.

    Term: ``contrastive``.

    Args:
        multi_positive: Count equal captions as matches; needs caption ids.
    """

    needs_teacher = False

    def __init__(self, multi_positive: bool = False) -> None:
        super().__init__()
        self.multi_positive = multi_positive

    def terms(self, student: JointBatch, teacher: JointBatch | None) -> dict[str, Tensor]:  # noqa: ARG002
        return {"contrastive": contrastive_cross_entropy(student, self.multi_positive)}


class SigLIPLoss(Loss):
    """Binary cross-entropy over all pairs (Zhai et al., SigLIP, ICCV 2023, equation 1).

    ``L = -(1/B) sum_ij log sigmoid(l_ij (logit_scale <image_i, text_j> + bias))`` with ``l_ii = 1`` and
    ``l_ij = -1`` elsewhere; with `multi_positive` also 1 where the captions are equal.

    Term: ``sigmoid``.

    Args:
        initial_bias: Initial value of a bias learned by this loss (SigLIP: -10), for students without a logit
            bias. None uses the student's.
        multi_positive: Count equal captions as matches; needs caption ids.
    """

    needs_teacher = False

    def __init__(self, initial_bias: float | None = None, multi_positive: bool = False) -> None:
        super().__init__()
        self.bias = None if initial_bias is None else nn.Parameter(torch.tensor(float(initial_bias)))
        self.multi_positive = multi_positive

    def terms(self, student: JointBatch, teacher: JointBatch | None) -> dict[str, Tensor]:  # noqa: ARG002
        learned, of_student = self.bias, student.local.logit_bias
        if learned is not None and of_student is not None:
            raise ValueError("SigLIPLoss: the student has a logit_bias; remove initial_bias")
        bias = of_student if learned is None else learned
        if bias is None:
            raise ValueError("SigLIPLoss: the student has no logit_bias; set initial_bias (SigLIP: -10)")
        logits = student.image_logits + bias
        if self.multi_positive:
            positive = student.same_caption
        else:
            positive = torch.zeros_like(logits, dtype=torch.bool)
            positive.diagonal(offset=student.first_row).fill_(True)
        signed = torch.where(positive, logits, -logits)
        return {"sigmoid": -logsigmoid(signed).sum(dim=1).mean()}
