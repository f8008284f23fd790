"""Samplers: order of the images in each process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.utils.data import DistributedSampler, SequentialSampler


def process_rank() -> tuple[int, int]:
    """Return (rank, world size) of this process; (0, 1) outside distributed runs."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class EpochSampler(DistributedSampler):
    """Yield shuffled (epoch, index) keys, from which a dataset derives its randomness.

    Every process gets an equal share of the images; the remainder, fewer than the processes, is left out of the
    epoch. As a `DistributedSampler` it is not replaced by Lightning.

    Its length is that of a whole epoch for any start, because Lightning counts batches by it.
    """

    def __init__(self, size: int, seed: int) -> None:
        rank, world = process_rank()
        images: Any = range(size)  # a dataset of that length
        super().__init__(images, num_replicas=world, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self._size = size
        self._start = (0, 0)

    def start_at(self, epoch: int, sample: int) -> None:
        """Set the epoch and, in that epoch only, start after `sample` images of this process."""
        self.set_epoch(epoch)
        self._start = (epoch, sample)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        shuffle = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch,)))
        order = shuffle.permutation(self._size)
        mine = order[: self.total_size][self.rank :: self.num_replicas]
        first = self._start[1] if self.epoch == self._start[0] else 0
        for index in mine[first:]:
            yield self.epoch, int(index)


class FixedSampler(DistributedSampler, SequentialSampler):
    """Yield the keys (0, index) in order, the same in every epoch.

    Processes get equally many, because they exchange embeddings at every step; the remainder, fewer than the
    processes, is left out. As a `DistributedSampler` it is not split again by Lightning, and as a `SequentialSampler`
    it is not replaced under `overfit_batches`.
    """

    def __init__(self, size: int) -> None:
        rank, world = process_rank()
        images: Any = range(size)
        super().__init__(images, num_replicas=world, rank=rank, shuffle=False, drop_last=True)

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        for index in super().__iter__():
            yield 0, int(index)
