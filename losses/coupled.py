"""Coupled knowledge distillation, one weight on the full divergence from the teacher, and its special cases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import DistillationLoss, require_positive
from .batch import JointBatch
from .distributions import kl_divergence, teacher_and_student


class CoupledKDLoss(DistillationLoss):
    """Imitate the teacher's full similarity distribution, or repel from it with a negative weight.

    ``L = w L_contrastive + lambda(t) KL(p || q)``, ``KL = (1/B) sum_ij p_ij (log p_ij - log q_ij)``,
    averaged over image-to-text and text-to-image; p and q as in `SRKDLoss`. Matched and mismatched pairs share one
    weight: constant for static distillation, scheduled below 0 for the coupled repulsive baselines. The gradient
    is that of SRKD's diagonal and off-diagonal terms with equal weights.

    Terms: ``contrastive``, ``distillation``; a term of weight 0 is not computed.

    Args:
        temperature: T > 0, divides the teacher's logits.
        distillation_weight: lambda, which a schedule sets; may be negative.
        standardize: As in `SRKDLoss`.
        mask_duplicates: Leave mismatched pairs of equal captions out of the sum over j, so that a negative weight
            does not repel the student from correct similarities; needs caption ids.
        **kwargs: For `DistillationLoss`.
    """

    scheduled: str | None = "distillation_weight"
    term = "distillation"

    def __init__(
        self,
        temperature: float = 5.0,
        distillation_weight: float = 1.0,
        standardize: bool = False,
        mask_duplicates: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.temperature = require_positive("temperature", temperature)
        self.distillation_weight = distillation_weight
        self.standardize = standardize
        self.mask_duplicates = mask_duplicates

    def targets(self, p: Tensor) -> Tensor:
        """Return the distribution [b, B] to imitate, given the teacher's p [b, B]: p itself."""
        return p

    def weights(self) -> dict[str, float]:
        return {**super().weights(), self.term: self.distillation_weight}

    def distillation_terms(self, student: JointBatch, teacher: JointBatch) -> dict[str, Tensor]:
        if self.distillation_weight == 0:
            return {}
        directions = teacher_and_student(student, teacher, self.temperature, self.standardize)
        excluded = student.other_same_caption if self.mask_duplicates else None
        divergences = [kl_divergence(self.targets(p), log_q, excluded) for p, log_q in directions]
        return {self.term: torch.stack(divergences).mean()}


class ConfidencePenaltyKDLoss(CoupledKDLoss):
    """`CoupledKDLoss` with the teacher's targets smoothed towards the uniform distribution over the B columns.

    ``p'_ij = (1 - epsilon) p_ij + epsilon / B``, as in label smoothing (Szegedy et al., CVPR 2016, section 7).

    Args:
        smoothing: epsilon in [0, 1].
        **kwargs: For `CoupledKDLoss`.
    """

    def __init__(self, smoothing: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= smoothing <= 1:
            raise ValueError(f"smoothing must be in [0, 1], not {smoothing}")
        self.smoothing = smoothing

    def targets(self, p: Tensor) -> Tensor:
        return (1 - self.smoothing) * p + self.smoothing / p.shape[1]


class ContrastiveRelationalLoss(CoupledKDLoss):
    """`CoupledKDLoss` at T = 1 without a schedule (CRD of CLIP-KD, Yang et al., CVPR 2024, equations 3-5).

    Terms: ``contrastive``, ``relational``; a term of weight 0 is not computed.

    Args:
        relational_weight: Weight of the divergence.
        **kwargs: For `DistillationLoss`.
    """

    scheduled = None
    term = "relational"

    def __init__(self, relational_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(1.0, relational_weight, **kwargs)
