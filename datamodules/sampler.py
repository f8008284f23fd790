"""The order in which a process visits the training images: a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.utils.data import DistributedSampler


def process_rank() -> tuple[int, int]:
    """Return (rank, world size) of this process; (0, 1) outside distributed runs."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class EpochSampler(DistributedSampler):
    """Yield (epoch, index) keys, so that a dataset can derive its randomness from them.

    Every process visits an equal share of the shuffled images; the remainder, below the number of
    processes, waits for another epoch. It is a `DistributedSampler` so that Lightning leaves it alone.

    Its length is that of a whole epoch whatever the start, because Lightning counts batches by it.

    Args:
        size: Number of images.
        seed: Of the shuffle.
    """

    def __init__(self, size: int, seed: int) -> None:
        rank, world = process_rank()
        images: Any = range(size)  # stands for a dataset of that length
        super().__init__(images, num_replicas=world, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self._size = size
        self._start = (0, 0)

    def start_at(self, epoch: int, sample: int) -> None:
        """Go to an epoch and, in that epoch only, begin after `sample` images of this process."""
        self.set_epoch(epoch)
        self._start = (epoch, sample)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        shuffle = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch,)))
        order = shuffle.permutation(self._size)
        mine = order[: self.total_size][self.rank :: self.num_replicas]
        first = self._start[1] if self.epoch == self._start[0] else 0
        for index in mine[first:]:
            yield self.epoch, int(index)
