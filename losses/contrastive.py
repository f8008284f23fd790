"""The softmax contrastive loss of CLIP."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.base import Loss
from losses.distributions import matched_cross_entropy
from losses.joint_batch import JointBatch


def contrastive_term(batch: JointBatch, multi_positive: bool) -> Tensor:
    """Return CLIP's loss of `batch`, averaged over both directions: see `CLIPLoss`."""
    positives = batch.same_caption if multi_positive else None
    directions = [
        matched_cross_entropy(torch.log_softmax(logits, dim=1), batch.first_row, positives)
        for logits in (batch.image_logits, batch.text_logits)
    ]
    return (directions[0] + directions[1]) / 2


class CLIPLoss(Loss):
    """Symmetric contrastive cross-entropy (Radford et al., CLIP, ICML 2021, figure 3).

    With q = row softmax of ``logit_scale * <image_i, text_j>`` (and its text-to-image twin),
    ``L = -(1/B) sum_i log q_ii``, averaged over the two directions. With `multi_positive`, the target of
    row i is uniform over all columns with the same caption instead of the own column alone.

    Term: ``contrastive``.

    Args:
        multi_positive: Count equal captions as matches; needs caption ids.
    """

    needs_teacher = False

    def __init__(self, multi_positive: bool = False) -> None:
        super().__init__()
        self.multi_positive = multi_positive

    def terms(self, student: JointBatch, teacher: JointBatch | None) -> dict[str, Tensor]:  # noqa: ARG002
        """Return ``contrastive``."""
        return {"contrastive": contrastive_term(student, self.multi_positive)}
