"""A weighted sum of losses, composable from YAML."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import STATISTICS, Loss
from .batch import Embeddings


class CombinedLoss(Loss):
    """``L = sum_k weight_k L_k`` over named losses.

    Terms: ``NAME/TERM`` for every term of every loss, unweighted, ``NAME/total`` among them. A loss of weight 0 is
    left out. If one part can be scheduled, so can the sum: `scheduled` names an attribute of `scheduled_part`.

    Args:
        losses: Losses by name: the classes of this package or modules with the same call.
        weights: Weight of each; 1 by default.

    Raises:
        ValueError: There are no losses, all weights are 0, a weight names none of them, a part's name is unusable, or
            several parts can be scheduled. At a call: a part returns no ``total``.
    """

    def __init__(self, losses: dict[str, nn.Module], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        if not losses:
            raise ValueError("CombinedLoss: losses is empty; name at least one")
        unusable = [name for name in losses if not name or "." in name or hasattr(nn.ModuleDict(), name)]
        if unusable:
            raise ValueError(
                f"CombinedLoss: losses cannot be named {unusable}: a name has no dot and is none of nn.ModuleDict's "
                "own; rename them"
            )
        unknown = sorted(set(weights) - set(losses))
        if unknown:
            raise ValueError(f"CombinedLoss: weights {unknown} name no loss; the losses are {sorted(losses)}")
        self.part_weights = {name: float(weights.get(name, 1.0)) for name in losses}
        losses = {name: loss for name, loss in losses.items() if self.part_weights[name] != 0}
        if not losses:
            raise ValueError(
                "CombinedLoss: all weights are 0, so nothing is trained; set one of another value"
            )
        scheduled = [name for name, loss in losses.items() if getattr(loss, "scheduled", None)]
        if len(scheduled) > 1:
            raise ValueError(f"CombinedLoss: a schedule can set one loss only, not all of {scheduled}")
        self.needs_teacher = any(getattr(loss, "needs_teacher", False) for loss in losses.values())
        self.parts = nn.ModuleDict(losses)
        self.scheduled = str(losses[scheduled[0]].scheduled) if scheduled else None

    @property
    def scheduled_part(self) -> nn.Module:
        """The loss whose attribute a schedule sets; this one if there is none."""
        for part in self.parts.values():
            if getattr(part, "scheduled", None):
                return part.scheduled_part if isinstance(part, CombinedLoss) else part
        return self

    def build(self, student_dim: int, teacher_dim: int | None) -> None:
        for part in self.parts.values():
            build: Any = getattr(part, "build", None)  # a user's own module need not have one
            if build is not None:
                build(student_dim, teacher_dim)

    def forward(self, student: Embeddings, teacher: Embeddings | None = None) -> dict[str, Tensor]:
        self._check(student, teacher)
        total: Tensor = torch.zeros((), device=student.image.device)
        result: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            terms = part(student, teacher)
            if not isinstance(terms, dict) or "total" not in terms:
                raise ValueError(
                    f"CombinedLoss: {name} ({type(part).__name__}) must return a dictionary of terms with one, total"
                )
            total = total + self.part_weights[name] * terms["total"]
            for term, value in terms.items():
                result[term if term in STATISTICS else f"{name}/{term}"] = value
        return {"total": total, **result}
