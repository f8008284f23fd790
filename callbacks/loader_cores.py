"""Fewer threads in training on a CPU, so that the loader's workers have cores of their own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning import Callback, LightningModule, Trainer


class LoaderCores(Callback):
    """Train on a CPU with one thread for each core that no worker of the loader takes, and with at least one.

    A parallel loop waits for its slowest thread, and a worker that takes over a core stops the thread on it. For a
    student whose step takes a tenth of a second, one thread beside two workers on two cores is 1.4 times as fast as two
    threads. Large models keep their workers idle and should not use it. Evaluations use all threads.
    """

    # Threads before training, None outside it. On the class, since threads belong to the process: a second instance of
    # the callback then changes nothing.
    _threads: ClassVar[int | None] = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._threads is None and pl_module.device.type == "cpu":
            threads = LoaderCores._threads = torch.get_num_threads()
            workers = getattr(trainer.train_dataloader, "num_workers", 0)
            torch.set_num_threads(max(1, threads - workers))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
            LoaderCores._threads = None
