"""The softmax contrastive loss of CLIP."""

from __future__ import annotations

from torch import Tensor

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
