"""Base classes of the losses: a weighted sum of named terms, without and with a contrastive one."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .batch import Embeddings, JointBatch, with_joint_values, world_size
from .distributions import contrastive_cross_entropy

STATISTICS = ("duplicate_rate",)
"""Keys of a loss's result that are logged but not part of the sum."""


def require_positive(name: str, value: float) -> float:
    """Return `value`.

    Raises:
        ValueError: The value is not above 0 or not finite; the message names the setting.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, not {value}")
    return value


def scheduled_weight(loss: Any) -> tuple[Any, str] | None:
    """Return the part of a loss that a schedule sets, and its attribute; None if it names none in ``scheduled``."""
    part = getattr(loss, "scheduled_part", loss)
    name = getattr(part, "scheduled", None)
    return None if name is None else (part, name)


class Loss(nn.Module):
    """Weighted sum of named terms of the student's (and the teacher's) embeddings.

    A subclass implements `terms`, and `weights` if any term has a weight other than 1. Terms are computed in
    float32 (float64 stays float64), whatever the autocast state and the dtype of the embeddings.

    Attributes:
        needs_teacher: Whether the loss requires a teacher.
        scheduled: Name of the float attribute that a schedule sets, or None.
    """

    needs_teacher: bool = True
    scheduled: str | None = None

    def build(self, student_dim: int, teacher_dim: int | None) -> None:
        """Create modules that depend on the embedding dimensions (None without a teacher), before training."""

    def terms(self, student: JointBatch, teacher: JointBatch | None) -> dict[str, Tensor]:
        """Return this process's unweighted terms, scalars by name, without those of weight 0."""
        raise NotImplementedError

    def weights(self) -> dict[str, float]:
        """Return the weight of each term in the total; 1 for a term that is not listed."""
        return {}

    def forward(self, student: Embeddings, teacher: Embeddings | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            student: The student's embeddings of this process's pairs.
            teacher: The teacher's embeddings of the same pairs; never differentiated.

        Returns:
            ``total`` (to differentiate), each unweighted term by name, and, with caption ids, ``duplicate_rate`` (a
            statistic). Under torch.distributed the values are those of the joint batch on every rank.

        Raises:
            ValueError: The teacher is missing or has another batch size.
        """
        self._check(student, teacher)
        with torch.autocast(student.image.device.type, enabled=False):
            # Half precision is too coarse for logits near 100; the teacher follows the student's dtype.
            dtype = torch.promote_types(student.image.dtype, torch.float32)
            batch = JointBatch(student.to(dtype))
            frozen = None
            if self.needs_teacher and teacher is not None:
                frozen = JointBatch(teacher.detach().to(dtype))
            terms = with_joint_values(self.terms(batch, frozen))
            weights = self.weights()
            weighted = [weights.get(name, 1.0) * term for name, term in terms.items()]
            # A schedule may pass through 0 and leave no term: the total must still be differentiable.
            local = batch.local
            zero = 0.0 * (local.image[0, 0] + local.text[0, 0] + local.logit_scale)
            if local.logit_bias is not None:
                zero = zero + 0.0 * local.logit_bias
            total = torch.stack(weighted).sum() if weighted else zero
            if world_size() > 1:  # DistributedDataParallel refuses parameters that take no part in the total
                own = [parameter for parameter in self.parameters() if parameter.requires_grad]
                total = total + zero + 0.0 * sum(parameter.flatten()[0] for parameter in own)
            result = {"total": total, **terms}
            if student.caption_id is not None:
                result["duplicate_rate"] = batch.duplicate_rate
        return result

    def _check(self, student: Embeddings, teacher: Embeddings | None) -> None:
        name = type(self).__name__
        if self.needs_teacher and teacher is None:
            raise ValueError(f"{name} needs a teacher: set model.teacher, or choose CLIPLoss or SigLIPLoss")
        if self.needs_teacher and teacher is not None and len(teacher.image) != len(student.image):
            sizes = f"the student's batch size is {len(student.image)}, the teacher's {len(teacher.image)}"
            raise ValueError(f"{name}: {sizes}; both must embed the same pairs")


class DistillationLoss(Loss):
    """``contrastive_weight * L_contrastive`` plus the terms of a subclass's `distillation_terms`.

    Args:
        contrastive_weight: Weight w of CLIP's loss; 0 leaves it out, as within a `CombinedLoss` that has one.
        multi_positive: Count equal captions as matches in the contrastive term; needs caption ids.
    """

    def __init__(self, contrastive_weight: float = 1.0, multi_positive: bool = False) -> None:
        super().__init__()
        self.contrastive_weight = contrastive_weight
        self.multi_positive = multi_positive

    @abstractmethod
    def distillation_terms(self, student: JointBatch, teacher: JointBatch) -> dict[str, Tensor]:
        """Return the unweighted terms that compare `student` with `teacher`, without those of weight 0."""

    def terms(self, student: JointBatch, teacher: JointBatch | None) -> dict[str, Tensor]:
        """Return ``contrastive`` and the distillation terms."""
        assert teacher is not None, "Loss.forward raises when the teacher is missing"
        terms = {}
        if self.contrastive_weight != 0:
            terms["contrastive"] = contrastive_cross_entropy(student, self.multi_positive)
        return {**terms, **self.distillation_terms(student, teacher)}

    def weights(self) -> dict[str, float]:
        """Return the weight of ``contrastive``; subclasses add theirs."""
        return {"contrastive": self.contrastive_weight}
