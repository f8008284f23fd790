"""Selective repulsive knowledge distillation (SRKD) and its controls."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

import torch
from torch import Tensor

from .base import DistillationLoss, require_positive
from .batch import JointBatch
from .distributions import diagonal_cross_entropy, off_diagonal_cross_entropy, teacher_and_student
from .kernels.fused import fused_terms
from .kernels.tiles import runs_on, tiled_terms


class SRKDLoss(DistillationLoss):
    """Imitate the teacher on matched pairs; imitate it on mismatched pairs (its confusions), or repel from them.

    ``L = w L_contrastive + L_diagonal + beta(t) L_off_diagonal`` with

    - p = row softmax of the TEACHER's logits (with its own logit scale) divided by the temperature T,
    - q = row softmax of the STUDENT's logits, not divided,
    - ``L_diagonal = -(1/B) sum_i p_ii log q_ii``, whose weight is always 1,
    - ``L_off_diagonal = -(1/B) sum_{i, j != i} p_ij log q_ij``,

    each averaged over image-to-text and text-to-image. A positive beta imitates the teacher's confusions,
    a negative one repels the student from them; a schedule sets beta during training.
    (Saeed et al., MobileFetalCLIP, arXiv 2603.05421.)

    Terms: ``contrastive``, ``diagonal``, ``off_diagonal``; a term of weight 0 is not computed.

    Args:
        temperature: T > 0, divides the teacher's logits.
        off_diagonal_weight: beta, which a schedule sets; may be negative.
        mask_duplicates: Leave pairs of equal captions out of the off-diagonal term, so that the student is
            not repelled from correct similarities; needs caption ids.
        standardize: Scale each row of BOTH models' logits to zero mean and unit deviation and divide both
            by T before the softmax of the distillation terms (Sun et al., CVPR 2024); a T near 1 suits it.
        kernel: ``fused`` is fastest and keeps 2 B x B numbers for the backward pass; ``chunked`` recomputes them;
            ``plain`` computes term by term. All give the same numbers. `multi_positive`, the two options above, and
            logits for which the fused form would lose precision, use ``plain`` in any case (on a GPU with Triton
            it loses none).
        **kwargs: For `DistillationLoss`.
    """

    scheduled: str | None = "off_diagonal_weight"

    def __init__(
        self,
        temperature: float = 5.0,
        off_diagonal_weight: float = 2.0,
        mask_duplicates: bool = False,
        standardize: bool = False,
        kernel: Literal["fused", "chunked", "plain"] = "fused",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.temperature = require_positive("temperature", temperature)
        self.off_diagonal_weight = off_diagonal_weight
        self.mask_duplicates = mask_duplicates
        self.standardize = standardize
        if kernel not in ("fused", "chunked", "plain"):
            raise ValueError(f"kernel must be fused, chunked or plain, not {kernel!r}")
        self.kernel = kernel

    def weights(self) -> dict[str, float]:
        """Return the weights of ``contrastive`` and ``off_diagonal``; that of ``diagonal`` is 1."""
        return {**super().weights(), "off_diagonal": self.off_diagonal_weight}

    def terms(self, student: JointBatch, teacher: JointBatch | None) -> dict[str, Tensor]:
        assert teacher is not None, "Loss.forward raises when the teacher is missing"
        fused = None
        own = any(
            getattr(type(self), name) is not getattr(SRKDLoss, name)
            for name in ("distillation_terms", "masks", "targets")
        )
        if self.kernel != "plain" and not (
            own or self.multi_positive or self.mask_duplicates or self.standardize
        ):
            form = tiled_terms if runs_on(student.local.image) else fused_terms
            fused = form(student, teacher, self.temperature, keep=self.kernel == "fused")
        if fused is None:
            return super().terms(student, teacher)
        weights = self.weights()
        return {name: term for name, term in fused.items() if weights.get(name, 1.0) != 0}

    def distillation_terms(self, student: JointBatch, teacher: JointBatch) -> dict[str, Tensor]:
        first, weights = student.first_row, self.weights()
        masks = {name: mask for name, mask in self.masks(student, teacher).items() if weights[name] != 0}
        directions: dict[str, list[Tensor]] = defaultdict(list)
        for p, log_q in teacher_and_student(student, teacher, self.temperature, self.standardize):
            directions["diagonal"].append(diagonal_cross_entropy(p, log_q, first))
            targets = self.targets(p, first) if masks else p
            for name, excluded in masks.items():
                directions[name].append(off_diagonal_cross_entropy(targets, log_q, first, excluded))
        return {name: torch.stack(both).mean() for name, both in directions.items()}

    def masks(self, student: JointBatch, teacher: JointBatch) -> dict[str, Tensor | None]:  # noqa: ARG002
        """Return each off-diagonal term and the pairs to leave out of it, bool [b, B]; None for none."""
        return {"off_diagonal": student.same_caption if self.mask_duplicates else None}

    def targets(self, p: Tensor, first_row: int) -> Tensor:  # noqa: ARG002 - for subclasses
        """Return the targets of the off-diagonal term for the teacher's probabilities `p` [b, B]."""
        return p


class SRKDControlLoss(SRKDLoss):
    """SRKD whose off-diagonal targets are shuffled, or whose repulsion spares near captions or images of one class.

    Terms and their weights are those of `SRKDLoss`, computed by its ``plain`` kernel.

    Args:
        shuffle: Permute each row's off-diagonal teacher probabilities at random in every step: the values are kept, the
            pairs that they belong to change. If SRKD acts through the teacher's own confusions, this loses its gain; if
            it acts as a regulariser, this keeps it.
        exclude_above_cosine: While the weight is negative, leave out pairs whose captions the teacher embeds with at
            least this cosine, such as neighbouring gestational ages: ordered, not confused. None excludes no pair.
        held: ``same_class`` or ``other_classes``: take pairs of images of the same plane and sub-plane, which differ in
            age at most, or those of different ones, out of ``off_diagonal`` to a term of their own, ``held``; needs
            class ids.
        held_weight: Weight of ``held``, which no schedule sets.
        **kwargs: For `SRKDLoss`, but `kernel`.
    """

    def __init__(
        self,
        shuffle: bool = False,
        exclude_above_cosine: float | None = None,
        held: Literal["same_class", "other_classes"] | None = None,
        held_weight: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs, kernel="plain")
        if exclude_above_cosine is not None and not -1 <= exclude_above_cosine <= 1:
            raise ValueError(f"exclude_above_cosine must lie between -1 and 1, not {exclude_above_cosine}")
        if held not in (None, "same_class", "other_classes"):
            raise ValueError(f"held must be same_class, other_classes or null, not {held!r}")
        self.shuffle = shuffle
        self.exclude_above_cosine = exclude_above_cosine
        self.held = held
        self.held_weight = held_weight

    def weights(self) -> dict[str, float]:
        """Add the weight of ``held``, if it is a term."""
        return {**super().weights(), **({"held": self.held_weight} if self.held else {})}

    def masks(self, student: JointBatch, teacher: JointBatch) -> dict[str, Tensor | None]:
        """Leave out near captions while a weight is negative, and hold the pairs of one class, or of different ones."""
        masks = super().masks(student, teacher)
        if self.held:
            held = student.same_class if self.held == "same_class" else ~student.same_class
            excluded = masks["off_diagonal"]
            masks = {"off_diagonal": _either(excluded, held), "held": _either(excluded, ~held)}
        if self.exclude_above_cosine is not None:
            near = teacher.local.text @ teacher.all_text.T >= self.exclude_above_cosine
            weights = self.weights()
            masks = {name: _either(mask, near) if weights[name] < 0 else mask for name, mask in masks.items()}
        return masks

    def targets(self, p: Tensor, first_row: int) -> Tensor:
        """Shuffle the targets where `shuffle` is set."""
        return shuffled_off_diagonal(p, first_row) if self.shuffle else p


def _either(one: Tensor | None, other: Tensor) -> Tensor:
    return other if one is None else one | other


def shuffled_off_diagonal(p: Tensor, first_row: int) -> Tensor:
    """Permute the off-diagonal entries within each row of `p` [b, B]; row i matches column ``first_row + i``."""
    b, columns = p.shape
    own = first_row + torch.arange(b, device=p.device)[:, None]
    others = torch.arange(columns - 1, device=p.device).expand(b, -1)
    others = others + (others >= own)  # the columns but the row's own
    values = p.gather(1, others)
    order = torch.rand_like(values).argsort(dim=1)
    return p.scatter(1, others, values.gather(1, order))
