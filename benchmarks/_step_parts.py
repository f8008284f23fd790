"""Where a training step's time goes, told by marks inside Lightning's own loop."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from lightning import Callback, Trainer

from lightning_modules import DistillationModule

OTHER = "Lightning and logging"


class TimedModule(DistillationModule):
    """Add up the seconds of a step's parts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parts: Counter[str] = Counter()
        self.mark = 0.0
        self.gradients_known = False

    def until_now(self, part: str) -> None:
        """Count the time since the last mark as this part's."""
        now = time.perf_counter()
        self.parts[part] += now - self.mark
        self.mark = now

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.mark = time.perf_counter()
        return super().training_step(batch, batch_idx)

    def embeddings(self, batch: dict[str, Any], role: str) -> Any:
        self.until_now("loss")
        found = super().embeddings(batch, role)
        self.until_now("towers")
        if role == "student":
            for part in (found.image, found.text):
                part.register_hook(self._note)
        return found

    def compute_loss(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        terms = super().compute_loss(batch)
        self.until_now("loss")
        return terms

    def on_before_backward(self, _: torch.Tensor) -> None:
        self.until_now(OTHER)

    def _note(self, _: torch.Tensor) -> None:
        if not self.gradients_known:
            self.until_now("loss")
        self.gradients_known = True

    def on_after_backward(self) -> None:
        self.until_now("towers")
        self.gradients_known = False

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.until_now("clipping and optimiser")


class StepTimes(Callback):
    """Seconds of each step and of its parts."""

    def __init__(self) -> None:
        self.total: list[float] = []
        self.parts: list[Counter[str]] = []
        self._last: float | None = None
        self._waited = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._waited = 0.0 if self._last is None else time.perf_counter() - self._last

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.total.append(now - self._last)
            self.parts.append(module.parts | Counter({"waiting for data": self._waited}))
        self._last, module.parts = now, Counter()

    def on_train_epoch_start(self, *_: Any) -> None:
        self._last = None  # the epoch's own work lies between

    def outside(self) -> float:
        """Share of the steps that is not the towers'."""
        return 1 - sum(parts["towers"] for parts in self.parts) / sum(self.total)

    def shares(self) -> Counter[str]:
        """Share of the steps of each part outside the towers."""
        known = sum(self.parts, Counter())
        del known["towers"], known[OTHER]
        shares = Counter({part: seconds / sum(self.total) for part, seconds in known.items()})
        shares[OTHER] = self.outside() - shares.total()
        return shares


def told_apart(times: list[StepTimes]) -> str:
    """Say which parts make up what lies outside the towers, largest first."""
    shares: Counter[str] = sum((own.shares() for own in times), Counter())
    return ", ".join(f"{part} {share / len(times):.1%}" for part, share in shares.most_common())
