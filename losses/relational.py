"""Contrastive relational distillation (CRD) of CLIP-KD."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import DistillationLoss
from .batch import JointBatch
from .distributions import kl_divergence, teacher_and_student


class ContrastiveRelationalLoss(DistillationLoss):
    """Imitate the teacher's similarity distribution at its own scale (CRD of CLIP-KD, equations 3-5).

    ``L = w L_contrastive + lambda KL(p || q)`` with p and q the row softmaxes of the teacher's and the student's
    logits, each at its own logit scale and without a temperature, averaged over image-to-text and text-to-image.
    (Yang et al., CLIP-KD, CVPR 2024, arXiv 2307.12732.) Equals `CoupledKDLoss` at T = 1 without a schedule.

    Terms: ``contrastive``, ``relational``; a term of weight 0 is not computed.

    Args:
        relational_weight: lambda.
        contrastive_weight: w, weight of CLIP's loss.
        multi_positive: Count equal captions as matches in the contrastive term; needs caption ids.
    """

    def __init__(
        self, relational_weight: float = 1.0, contrastive_weight: float = 1.0, multi_positive: bool = False
    ) -> None:
        super().__init__(contrastive_weight, multi_positive)
        self.relational_weight = relational_weight

    def weights(self) -> dict[str, float]:
        """Return the weights of both terms."""
        return {**super().weights(), "relational": self.relational_weight}

    def distillation_terms(self, student: JointBatch, teacher: JointBatch) -> dict[str, Tensor]:
        """Return ``relational``."""
        if self.relational_weight == 0:
            return {}
        directions = teacher_and_student(student, teacher, temperature=1.0)
        return {"relational": torch.stack([kl_divergence(p, log_q) for p, log_q in directions]).mean()}
