"""The frame of losses with a teacher: CLIP's loss on the data plus terms that follow the teacher."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from losses.base import Loss
from losses.contrastive import contrastive_term
from losses.joint_batch import JointBatch


class DistillationLoss(Loss):
    """``contrastive_weight * L_contrastive`` plus what a subclass adds in `distillation_terms`.

    Args:
        contrastive_weight: Weight of CLIP's loss; 0 leaves it out, as within a `CombinedLoss` that already
            has one.
        multi_positive: Count equal captions as matches in the contrastive term; needs caption ids.
    """

    needs_teacher = True

    def __init__(self, contrastive_weight: float, multi_positive: bool) -> None:
        super().__init__()
        self.contrastive_weight = contrastive_weight
        self.multi_positive = multi_positive

    @abstractmethod
    def distillation_terms(self, student: JointBatch, teacher: JointBatch) -> dict[str, Tensor]:
        """Return the unweighted terms that compare `student` with `teacher`, without those that weigh 0."""

    def terms(self, student: JointBatch, teacher: JointBatch | None) -> dict[str, Tensor]:
        """Return ``contrastive`` and the distillation terms."""
        assert teacher is not None, "Loss.forward refuses a missing teacher"
        terms = {}
        if self.contrastive_weight != 0:
            terms["contrastive"] = contrastive_term(student, self.multi_positive)
        return {**terms, **self.distillation_terms(student, teacher)}

    def weights(self) -> dict[str, float]:
        """Return the weight of ``contrastive``; subclasses add theirs."""
        return {"contrastive": self.contrastive_weight}
