"""Whether the student is drawn to the teacher's confusions, or pushed from them."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.off_diagonal_schedule import OffDiagonalSchedule
from metrics.names import OFF_DIAGONAL_PHASE, OFF_DIAGONAL_WEIGHT


class OffDiagonalPhase(Callback):
    """Log the sign of the loss's off-diagonal weight: 1 attracts, 0 is neutral, -1 repels.

    Stands behind the schedule that sets and logs the weight; without one it logs the weight, too. A loss
    without such a weight logs nothing.
    """

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log this step's phase."""
        loss: Any = pl_module.loss
        weight = getattr(loss, getattr(loss, "scheduled", None) or "off_diagonal_weight", None)
        if weight is None:
            return
        pl_module.log(OFF_DIAGONAL_PHASE, float((weight > 0) - (weight < 0)), batch_size=1)
        if not any(isinstance(callback, OffDiagonalSchedule) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            pl_module.log(OFF_DIAGONAL_WEIGHT, float(weight), batch_size=1)
