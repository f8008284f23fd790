"""Coupled distillation from smoothed teacher targets."""

from __future__ import annotations

from torch import Tensor

from .coupled import CoupledKDLoss


class ConfidencePenaltyKDLoss(CoupledKDLoss):
    """`CoupledKDLoss` with the teacher's targets smoothed towards the uniform distribution over the B columns.

    ``p'_ij = (1 - epsilon) p_ij + epsilon / B``, as in label smoothing (Szegedy et al., CVPR 2016, section 7).

    Terms: ``contrastive``, ``distillation``. The other arguments are those of `CoupledKDLoss`.

    Args:
        smoothing: epsilon in [0, 1].

    Raises:
        ValueError: The smoothing is outside [0, 1] or the temperature is not above 0.
    """

    def __init__(
        self,
        smoothing: float = 0.1,
        temperature: float = 5.0,
        distillation_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        multi_positive: bool = False,
        standardize: bool = False,
        mask_duplicates: bool = False,
    ) -> None:
        super().__init__(
            temperature, distillation_weight, contrastive_weight, multi_positive, standardize, mask_duplicates
        )
        if not 0 <= smoothing <= 1:
            raise ValueError(f"smoothing must be in [0, 1], not {smoothing}")
        self.smoothing = smoothing

    def targets(self, p: Tensor) -> Tensor:
        """Return the smoothed distribution [b, B]."""
        return (1 - self.smoothing) * p + self.smoothing / p.shape[1]
