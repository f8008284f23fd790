"""Count and log the bad samples that training replaced, and stop at too many."""

from __future__ import annotations

import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.tracking.step_metrics import on_device
from metrics.names import SKIPPED
from models.files import digest

log = logging.getLogger(__name__)


class SkippedSamples(Callback):
    """Count the samples of ``batch["skipped"]``, which data modules fill when ``on_error`` is "skip".

    Each bad sample is logged once, and their number so far as ``train/skipped``. A truncated shard counts as
    the number of its samples.

    Args:
        max_share: Training stops when more than this share of an epoch's samples is bad.
    """

    def __init__(self, max_share: float = 0.01) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f"skipped samples: max_share must lie in 0-1, not {max_share}")
        self.max_share = max_share
        self.counts: dict[str, int] = {}  # by digest: checkpoints are shared, names of images are not
        self.epoch_counts: dict[str, int] = {}  # likewise, those of the epoch so far

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_counts = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        skipped = {digest(message): (message, count) for message, count in batch.get("skipped", ())}
        for key, (message, _) in skipped.items():
            if key not in self.counts:
                log.warning("skipped: %s", message)
        new = {key: skipped[key] for key in skipped if key not in self.epoch_counts}
        counts = {key: count for key, (_, count) in new.items()}
        self.counts |= counts
        self.epoch_counts |= counts
        if not self.counts:
            return
        pl_module.log(SKIPPED, on_device(sum(self.counts.values()), pl_module), batch_size=1)
        bad = sum(self.epoch_counts.values())
        samples = len(batch["index"]) * int(trainer.num_training_batches)
        if new and bad > self.max_share * samples:
            raise ValueError(
                f"{bad} bad samples in an epoch of {samples} exceed the tolerated share of "
                f"{self.max_share:g} (skipped.max_share); the last: {list(new.values())[-1][0]}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "epoch_counts": dict(self.epoch_counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts, self.epoch_counts = dict(state_dict["counts"]), dict(state_dict["epoch_counts"])
