"""Log training throughput and the share of time spent waiting for data."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

from lightning import Callback, LightningModule, Trainer

from metrics.names import DATA_WAIT_SHARE, IMAGES_PER_SECOND


class Throughput(Callback):
    """Log images per second over all processes, and the share of time spent waiting for batches.

    Both are means over the last `window` batches, without the evaluations between them. (Lightning's
    ThroughputMonitor does not measure the wait.)

    Args:
        window: Number of batches, 1 or more.
    """

    def __init__(self, window: int = 20) -> None:
        self._batches: deque[tuple[int, float, float]] = deque(maxlen=window)  # images, waited s, total s
        self._left = self._arrived = 0.0

    def _restart(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock: at the start of a training or an epoch, and after an evaluation."""
        self._left = perf_counter()

    on_train_start = on_train_epoch_start = on_validation_end = _restart

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """Record when the batch arrived."""
        self._arrived = perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the means up to this batch."""
        now = perf_counter()
        self._batches.append((len(batch["student_image"]), self._arrived - self._left, now - self._left))
        self._left = now
        images, waited, total = (sum(column) for column in zip(*self._batches, strict=True))
        pl_module.log(IMAGES_PER_SECOND, images * trainer.world_size / total, batch_size=1)
        pl_module.log(DATA_WAIT_SHARE, waited / total, batch_size=1)
