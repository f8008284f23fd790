"""Interactive contrastive learning (ICL) of CLIP-KD."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .base import ProjectedLoss, require_positive
from .batch import JointBatch
from .distributions import matched_cross_entropy

MAXIMUM_LOGIT_SCALE = 100.0
"""CLIP's clamp (Radford et al. 2021, section 2.5)."""


class InteractiveContrastiveLoss(ProjectedLoss):
    """Contrast the student's embeddings with the TEACHER's of the other modality (ICL of CLIP-KD, equations 9-11).

    ``L = w L_contrastive + lambda/2 (CE(s <h(image_s), text_t>) + CE(s <h(text_s), image_t>))`` with
    ``CE(z) = -(1/B) sum_i log softmax_j(z_ij)_i``, projection heads h (see `ProjectedLoss`), and a logit scale s
    learned by this loss. (Yang et al., CLIP-KD, CVPR 2024, arXiv 2307.12732.)

    Terms: ``contrastive``, ``interactive``; a term of weight 0 is not computed.

    Args:
        interactive_weight: lambda.
        initial_logit_scale: Start of s, at most 100.
        contrastive_weight: w, weight of CLIP's loss.
        multi_positive: Count equal captions as matches in both terms; needs caption ids.
    """

    def __init__(
        self,
        interactive_weight: float = 1.0,
        initial_logit_scale: float = 1 / 0.07,
        contrastive_weight: float = 1.0,
        multi_positive: bool = False,
    ) -> None:
        super().__init__(contrastive_weight, multi_positive)
        self.interactive_weight = interactive_weight
        start = math.log(require_positive("initial_logit_scale", initial_logit_scale))
        self.log_logit_scale = nn.Parameter(torch.tensor(start))

    def weights(self) -> dict[str, float]:
        return {**super().weights(), "interactive": self.interactive_weight}

    def distillation_terms(self, student: JointBatch, teacher: JointBatch) -> dict[str, Tensor]:
        if self.interactive_weight == 0:
            return {}
        image, text = self.projected(student.local)
        scale = self.log_logit_scale.to(image.dtype).exp().clamp(max=MAXIMUM_LOGIT_SCALE)
        positives = student.same_caption if self.multi_positive else None
        directions = [
            matched_cross_entropy(torch.log_softmax(logits, dim=1), student.first_row, positives)
            for logits in (scale * image @ teacher.all_text.T, scale * text @ teacher.all_image.T)
        ]
        return {"interactive": (directions[0] + directions[1]) / 2}
