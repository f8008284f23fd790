"""Schedule of the off-diagonal weight: imitate first, then repel from the teacher's confusions."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from lightning import Callback, LightningModule, Trainer

from losses.base import scheduled_weight

Shape = Literal["linear", "cosine", "exponential", "step", "constant", "hold-linear"]


class OffDiagonalSchedule(Callback):
    """Set the loss's scheduled weight at every step; for SRKD the off-diagonal weight beta.

    With ``end = start * end_ratio`` and x = progress of training, in [0, 1] (the linear form: paper, section 3.3)::

        linear       start + (end - start) x
        cosine       end + (start - end) (1 + cos(pi x)) / 2
        exponential  end + (start - end) (exp(-5 x) - exp(-5)) / (1 - exp(-5))
        step         start while x < hold, then end
        constant     start
        hold-linear  start while x < hold, then linear to end

    The exponential decays the difference, not the ratio, because `end` is negative in the paper's runs. The weight
    is a function of the global optimiser step alone, so a resumed run continues it exactly and it is constant within
    an accumulation.

    Args:
        start: Weight at the first step (paper's best: 2).
        end_ratio: Final weight over `start` (paper's best: -0.4, so 2 falls to -0.8); negative repels.
        shape: ``linear`` (the paper's), ``cosine``, ``exponential``, ``step``, ``constant`` or
            ``hold-linear``.
        hold: Share of training, in (0, 1), that ``step`` and ``hold-linear`` stay at `start`.
        end: Final weight; where it is given, `end_ratio` does not count. A start of 0 stays 0 without it.

    Attributes:
        total_steps: Optimiser steps that the schedule is spread over; None before a training starts.

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
        numbers = {"start": start, "end_ratio": end_ratio, "end": 0.0 if end is None else end}
        for name, value in numbers.items():
            if value is None or not math.isfinite(value):
                raise ValueError(f"schedule.{name}: must be a finite number, not {value}")
        self.start = start
        self.end = start * end_ratio if end is None else end
        self.shape: Shape = shape
        self.hold = hold
        self.total_steps: int | None = None

    def weight(self, progress: float) -> float:
        """Return the weight at a progress of training in [0, 1]."""
        x, start, end = min(1.0, max(0.0, progress)), self.start, self.end
        if self.shape == "constant":
            return start
        if self.shape == "step":
            return start if x < self.hold else end
        if self.shape == "cosine":
            return end + (start - end) * (1.0 + math.cos(math.pi * x)) / 2.0
        if self.shape == "exponential":
            return end + (start - end) * (math.exp(-5.0 * x) - math.exp(-5.0)) / (1.0 - math.exp(-5.0))
        if self.shape == "hold-linear":
            x = 0.0 if x < self.hold else (x - self.hold) / (1.0 - self.hold)
        return start + (end - start) * x

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that resumes within an evaluation takes no step before it: that has the weight of the last step.
        self._set(trainer, pl_module, max(0, trainer.global_step - 1))

    def check(self, loss: Any) -> tuple[Any, str]:
        """Return the part of a loss that is scheduled, and its attribute.

        Raises:
            ValueError: The loss names none, or it does not exist.
        """
        scheduled = scheduled_weight(loss)
        if scheduled is not None and hasattr(*scheduled):
            return scheduled
        lacks = f"has no {scheduled[1]}" if scheduled else "names no weight (attribute `scheduled`)"
        raise ValueError(
            f"schedule: {type(loss).__name__} {lacks} to schedule; remove the schedule (--schedule=null) or choose a "
            "loss with one, such as losses.SRKDLoss"
        )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._set(trainer, pl_module, trainer.global_step)

    def _set(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        self.total_steps = int(trainer.estimated_stepping_batches)
        setattr(*self.check(pl_module.loss), self.weight(step / max(1, self.total_steps)))
