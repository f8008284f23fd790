"""Losses in the teacher's space, which the student reaches by projection heads (CLIP-KD, Yang et al., CVPR 2024)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss, normalize

from .base import DistillationLoss
from .batch import Embeddings, JointBatch
from .distributions import contrastive_cross_entropy

MAXIMUM_LOGIT_SCALE = 100.0


class ProjectedLoss(DistillationLoss):
    """Distillation loss with a linear head per tower from the student's space into the teacher's.

    Heads are followed by normalisation, and are the identity where both dimensions agree, as in CLIP-KD (Yang et
    al., CVPR 2024, section 3.3).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads: nn.ModuleDict | None = None

    def build(self, student_dim: int, teacher_dim: int | None) -> None:
        if teacher_dim is None:
            raise ValueError(f"{type(self).__name__} needs a teacher: its embedding dimension is unknown")
        same = student_dim == teacher_dim
        image, text = (nn.Identity() if same else nn.Linear(student_dim, teacher_dim) for _ in range(2))
        self.heads = nn.ModuleDict({"image": image, "text": text})

    def projected(self, student: Embeddings) -> tuple[Tensor, Tensor]:
        """Return the image and text embeddings [b, teacher D], unit-length, in the teacher's space."""
        if self.heads is None:
            raise ValueError(
                f"{type(self).__name__} has no projection heads: call build(student_dim, teacher_dim) "
                "before training"
            )
        return _unit(self.heads["image"], student.image), _unit(self.heads["text"], student.text)


class FeatureKDLoss(ProjectedLoss):
    """Distance between the student's projected embeddings and the teacher's (FD of CLIP-KD, equation 6).

    ``L = w L_contrastive + lambda (d(h_I(image_s), image_t) + d(h_T(text_s), text_t))`` with projection heads h (see
    `ProjectedLoss`) and ``d = mean over rows and dimensions of (x - y)^2`` or ``d = mean over rows of (1 - <x, y>)``.

    Terms: ``contrastive``, ``feature``; a term of weight 0 is not computed.

    Args:
        distance: ``mse`` or ``cosine``.
        feature_weight: lambda; 2000 in CLIP-KD, for ``mse``.
        **kwargs: For `DistillationLoss`.
    """

    def __init__(
        self,
        distance: Literal["mse", "cosine"] = "mse",
        feature_weight: float = 2000.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
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


class InteractiveContrastiveLoss(ProjectedLoss):
    """Contrast the student's embeddings with the TEACHER's of the other modality (ICL of CLIP-KD, equations 9-11).

    ``L = w L_contrastive + lambda/2 (CE(s <h(image_s), text_t>) + CE(s <h(text_s), image_t>))`` with
    ``CE(z) = -(1/B) sum_i log softmax_j(z_ij)_i``, projection heads h (see `ProjectedLoss`), and a logit scale s
    learned by this loss, at most 100 as in CLIP (Radford et al. 2021, section 2.5).
    (Yang et al., CLIP-KD, CVPR 2024, arXiv 2307.12732.)

    Terms: ``contrastive``, ``interactive``; a term of weight 0 is not computed.

    Args:
        interactive_weight: lambda.
        initial_logit_scale: Start of s, at most 100.
        **kwargs: For `DistillationLoss`; `multi_positive` holds for both terms.
    """

    def __init__(
        self, interactive_weight: float = 1.0, initial_logit_scale: float = 1 / 0.07, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.interactive_weight = interactive_weight
        if not 0 < initial_logit_scale <= MAXIMUM_LOGIT_SCALE:
            limits = f"above 0 and at most {MAXIMUM_LOGIT_SCALE:g}"
            raise ValueError(f"initial_logit_scale must be {limits}, not {initial_logit_scale}")
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(initial_logit_scale)))

    def weights(self) -> dict[str, float]:
        return {**super().weights(), "interactive": self.interactive_weight}

    def distillation_terms(self, student: JointBatch, teacher: JointBatch) -> dict[str, Tensor]:
        if self.interactive_weight == 0:
            return {}
        image, text = self.projected(student.local)
        with torch.no_grad():  # clamping the scale itself would end its gradient
            self.log_logit_scale.clamp_(max=math.log(MAXIMUM_LOGIT_SCALE))
        scale = self.log_logit_scale.to(image.dtype).exp()
        logits = scale * image @ teacher.all_text.T, scale * text @ teacher.all_image.T
        return {"interactive": contrastive_cross_entropy(student, self.multi_positive, logits)}


def _unit(head: nn.Module, x: Tensor) -> Tensor:
    if isinstance(head, nn.Linear):
        # Heads kept in half precision still multiply in the precision of the loss.
        x = linear(x, head.weight.to(x.dtype), head.bias.to(x.dtype))
    return normalize(x, dim=1)
