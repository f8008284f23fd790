"""The frame of every loss: checks, precision, joint batch and the weighted sum of named terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from losses.embeddings import Embeddings
from losses.gather import with_joint_values
from losses.joint_batch import JointBatch

STATISTICS = ("duplicate_rate",)
"""Keys of a loss's result that are logged but are no part of the sum."""


def require_positive(name: str, value: float) -> float:
    """Return `value`, or raise a ValueError naming the setting if it is not above zero."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value}")
    return value


class Loss(nn.Module):
    """A weighted sum of named terms of the student's (and the teacher's) embeddings.

    A subclass implements `terms`, and `weights` if any term weighs other than 1. Whatever the autocast
    state and the dtype of the embeddings, terms are computed in float32 (float64 stays float64).

    Attributes:
        needs_teacher: Whether a call without a teacher is an error.
        scheduled: Name of the float attribute that a schedule drives, or None if there is none.
    """

    needs_teacher: bool = True
    scheduled: str | None = None

    def build(self, student_dim: int, teacher_dim: int | None) -> None:
        """Make what depends on the embedding dimensions; called once, before training.

        Args:
            student_dim: D of the student's embeddings.
            teacher_dim: D of the teacher's embeddings, None without a teacher.
        """

    def terms(self, student: JointBatch, teacher: JointBatch | None) -> dict[str, Tensor]:
        """Return this process's unweighted terms, scalars by name; leave out those that weigh 0."""
        raise NotImplementedError

    def weights(self) -> dict[str, float]:
        """Return the factor of each term in the total; a term not named here weighs 1."""
        return {}

    def forward(self, student: Embeddings, teacher: Embeddings | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            student: The student's embeddings of this process's pairs.
            teacher: The teacher's embeddings of the same pairs; never differentiated.

        Returns:
            ``total`` (to differentiate), each unweighted term by name, and, when the student's
            embeddings carry caption ids, ``duplicate_rate`` (a statistic, not part of the total). Under
            torch.distributed the values are those of the joint batch on every rank.

        Raises:
            ValueError: The teacher is missing or has another batch size.
        """
        self._check(student, teacher)
        with torch.autocast(student.image.device.type, enabled=False):
            # Half precision is too coarse for logits near 100; the teacher follows the student.
            dtype = torch.promote_types(student.image.dtype, torch.float32)
            batch = JointBatch(student.to(dtype))
            frozen = None
            if self.needs_teacher and teacher is not None:
                frozen = JointBatch(teacher.detach().to(dtype))
            terms = with_joint_values(self.terms(batch, frozen))
            weights = self.weights()
            weighted = [weights.get(name, 1.0) * term for name, term in terms.items()]
            # A schedule may pass through 0 and leave no term: the total must still be differentiable.
            total = torch.stack(weighted).sum() if weighted else _zero(batch)
            result = {"total": total, **terms}
            if student.caption_id is not None:
                result["duplicate_rate"] = batch.duplicate_rate
        return result

    def _check(self, student: Embeddings, teacher: Embeddings | None) -> None:
        name = type(self).__name__
        if self.needs_teacher and teacher is None:
            raise ValueError(f"{name} needs a teacher: give the module one, or choose CLIPLoss or SigLIPLoss")
        if self.needs_teacher and teacher is not None and len(teacher.image) != len(student.image):
            raise ValueError(
                f"{name}: the student's batch size is {len(student.image)}, the teacher's "
                f"{len(teacher.image)}; both must embed the same pairs"
            )


def _zero(batch: JointBatch) -> Tensor:
    local = batch.local
    return 0.0 * (local.image[0, 0] + local.text[0, 0] + local.logit_scale)
