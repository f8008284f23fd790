"""Schedule of the off-diagonal weight: imitate first, then repel from the teacher's confusions."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from lightning import Callback, LightningModule, Trainer

from callbacks.tracking.step_metrics import on_device
from metrics.names import OFF_DIAGONAL_PHASE, weight_name

Shape = Literal["linear", "cosine", "exponential", "step", "constant", "hold-linear"]


def weight_at(
    progress: float,
    *,
    start: float,
    end_ratio: float = -0.4,
    end: float | None = None,
    shape: Shape = "linear",
    hold: float = 0.5,
) -> float:
    """Return the off-diagonal weight beta at `progress` of training.

    With ``end = start * end_ratio`` and x = progress (the linear form: paper, section 3.3)::

        linear       start + (end - start) x
        cosine       end + (start - end) (1 + cos(pi x)) / 2
        exponential  end + (start - end) (exp(-5 x) - exp(-5)) / (1 - exp(-5))
        step         start while x < hold, then end
        constant     start
        hold-linear  start while x < hold, then linear to end

    The exponential decays the difference, not the ratio, because `end` is negative in the paper's runs.
    """
    x = min(1.0, max(0.0, progress))
    if end is None:
        end = start * end_ratio
    if shape == "constant":
        return start
    if shape == "step":
        return start if x < hold else end
    if shape == "cosine":
        return end + (start - end) * (1.0 + math.cos(math.pi * x)) / 2.0
    if shape == "exponential":
        return end + (start - end) * (math.exp(-5.0 * x) - math.exp(-5.0)) / (1.0 - math.exp(-5.0))
    if shape == "hold-linear":
        x = 0.0 if x < hold else (x - hold) / (1.0 - hold)
    return start + (end - start) * x


class OffDiagonalSchedule(Callback):
    """Set the loss's scheduled weight at every step.

    The weight is a function of the global optimiser step alone, so a resumed run continues it exactly and it is
    constant within an accumulation.

    Args:
        start: Weight at the first step (paper's best: 2).
        end_ratio: Final weight over `start` (paper's best: -0.4, so 2 falls to -0.8); negative repels.
        shape: ``linear`` (the paper's), ``cosine``, ``exponential``, ``step``, ``constant`` or
            ``hold-linear``.
        hold: Share of training, in (0, 1), that ``step`` and ``hold-linear`` stay at `start`.
        end: Final weight; where it is given, `end_ratio` does not count. A start of 0 needs it.

    Attributes:
        total_steps: Optimiser steps that the schedule is spread over; None before the first step of training.

    Raises:
        ValueError: An unknown shape or a `hold` outside (0, 1); at the start of training, a loss that
            has no scheduled weight.
    """

    def __init__(
        self,
        start: float = 2.0,
        end_ratio: float = -0.4,
        shape: Shape = "linear",
        hold: float = 0.5,
        end: float | None = None,
    ) -> None:
        if shape not in get_args(Shape):
            raise ValueError(f"schedule.shape: {shape!r} is not one of {', '.join(get_args(Shape))}")
        if not 0.0 < hold < 1.0:
            raise ValueError(f"schedule.hold: must lie between 0 and 1, not {hold}")
        self.start = start
        self.end_ratio = end_ratio
        self.end = end
        self.shape: Shape = shape
        self.hold = hold
        self.total_steps: int | None = None

    def weight(self, step: int, total_steps: int) -> float:
        """Return the weight at optimiser step `step` of `total_steps`."""
        return weight_at(
            step / max(1, total_steps),
            start=self.start,
            end_ratio=self.end_ratio,
            end=self.end,
            shape=self.shape,
            hold=self.hold,
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check(pl_module.loss)

    def check(self, loss: Any) -> None:
        """Check that a loss has a scheduled weight."""
        part, name = scheduled_weight(loss)
        if not hasattr(part, name):
            raise ValueError(
                f"schedule: {type(loss).__name__} has no {name} to schedule; remove the "
                "schedule (--schedule=null) or choose a loss with one, such as losses.SRKDLoss"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        part, name = scheduled_weight(pl_module.loss)
        self.total_steps = int(trainer.estimated_stepping_batches)
        weight = self.weight(trainer.global_step, self.total_steps)
        setattr(part, name, weight)
        pl_module.log(weight_name(name), on_device(weight, pl_module), prog_bar=True, batch_size=1)


class OffDiagonalPhase(Callback):
    """Log the sign of the loss's scheduled weight: 1 attracts, 0 is neutral, -1 repels.

    Must come after the schedule, which logs the weight; without a schedule it also logs the weight. A loss without
    such a weight logs nothing.
    """

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        part, name = scheduled_weight(pl_module.loss)
        weight = getattr(part, name, None)
        if weight is None:
            return
        sign = float((weight > 0) - (weight < 0))
        pl_module.log(OFF_DIAGONAL_PHASE, on_device(sign, pl_module), batch_size=1)
        if not any(isinstance(callback, OffDiagonalSchedule) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            pl_module.log(weight_name(name), on_device(weight, pl_module), batch_size=1)


def scheduled_weight(loss: Any) -> tuple[Any, str]:
    """Return the part of a loss that a schedule sets and its attribute, which a user's own loss need not name."""
    part = getattr(loss, "scheduled_part", loss)
    return part, getattr(part, "scheduled", None) or "off_diagonal_weight"
