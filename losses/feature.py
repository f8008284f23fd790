"""Feature distillation: regress the teacher's embeddings."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import mse_loss

from .base import ProjectedLoss
from .batch import JointBatch


class FeatureKDLoss(ProjectedLoss):
    """Distance between the student's projected embeddings and the teacher's (FD of CLIP-KD, equation 6).

    ``L = w L_contrastive + lambda (d(h_I(image_s), image_t) + d(h_T(text_s), text_t))`` with projection heads h (see
    `ProjectedLoss`) and ``d = mean over rows and dimensions of (x - y)^2`` or ``d = mean over rows of (1 - <x, y>)``.

    Terms: ``contrastive``, ``feature``; a term of weight 0 is not computed.

    Args:
        distance: ``mse`` or ``cosine``.
        feature_weight: lambda; 2000 in CLIP-KD, for ``mse``.
        contrastive_weight: w, weight of CLIP's loss.
        multi_positive: Count equal captions as matches in the contrastive term; needs caption ids.
    """

    def __init__(
        self,
        distance: Literal["mse", "cosine"] = "mse",
        feature_weight: float = 2000.0,
        contrastive_weight: float = 1.0,
        multi_positive: bool = False,
    ) -> None:
        super().__init__(contrastive_weight, multi_positive)
        if distance not in ("mse", "cosine"):
            raise ValueError(f"distance must be mse or cosine, not {distance!r}")
        self.distance = distance
        self.feature_weight = feature_weight

    def weights(self) -> dict[str, float]:
        return {**super().weights(), "feature": self.feature_weight}

    def distillation_terms(self, student: JointBatch, teacher: JointBatch) -> dict[str, Tensor]:
        if self.feature_weight == 0:
            return {}
        image, text = self.projected(student.local)
        return {
            "feature": self._distance(image, teacher.local.image) + self._distance(text, teacher.local.text)
        }

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.distance == "mse":
            return mse_loss(student, teacher)
        return (1 - (student * teacher).sum(dim=1)).mean()
