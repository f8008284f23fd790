"""Stream of training pairs from WebDataset tar shards."""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.pairs.dataset import OnError
from datamodules.pairs.loaders import SameOrder
from datamodules.pairs.sample import PairBuilder
from datamodules.redaction import redacted
from datamodules.shards.sample import decode_sample

_ATTEMPTS = 100
# Message of webdataset for a failed pipe; it shows the arguments of the process instead of the shard.
_COMMAND_ENDED = re.compile(r"\(\(.*\): exit (?P<status>-?\d+) \(read\)")

Skipped = list[tuple[str, int]]  # message, number of samples left out


class _BadSampleError(ValueError):
    """A sample or shard that cannot be read."""


class StreamPosition:
    """Epoch and first batch of a stream, in memory shared with the workers. A fixed one stays in its epoch."""

    def __init__(self, epoch: int, batch: int, fixed: bool = False) -> None:
        self._fixed = fixed
        self._values = torch.tensor([epoch, epoch, batch]).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Start `epoch`; called by Lightning."""
        if not self._fixed:
            self._values[0] = epoch

    def current(self) -> tuple[int, int]:
        """Return (epoch, first batch); only the epoch in which a run was resumed starts after batch 0."""
        epoch, resumed_epoch, batch = self._values.tolist()
        return epoch, batch if epoch == resumed_epoch else 0


@dataclass(eq=False)
class ShardStream(IterableDataset):
    """One process's part of an epoch, from an endless pass over the shards.

    Every pass visits the shards in a new order, each shard in exactly one worker of one node. All processes
    deliver the same number of batches, however uneven the shards, so that none waits for another.

    Attributes:
        urls: The shards: paths, ``s3://`` or ``pipe:`` URLs.
        sizes: Shard -> number of samples it should contain, by which an unreadable one is counted.
        builder: Renders a pair.
        position: Start of the epoch.
        batches: Batches per epoch and process.
        batch_size: Pairs per batch.
        seed: Seed of order, captions and augmentation.
        on_error: What a bad sample does; "skip" takes the next one and reports it under ``skipped``.
        shuffle_buffer: Encoded samples in the shuffle buffer of each worker.
        rank: Rank of this process.
        world: Number of processes.
    """

    urls: list[str]
    sizes: dict[str, float]
    builder: PairBuilder
    position: StreamPosition
    batches: int
    batch_size: int
    seed: int
    on_error: OnError
    shuffle_buffer: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, first = self.position.current()
        # The loader asks its workers in turn, starting with number 0: batch b belongs to stream b % workers.
        stream = (number + first) % workers
        mine = range(stream, self.batches, workers)
        done = len(range(stream, first, workers))
        slot, slots = self.rank * workers + stream, self.world * workers
        pairs = self._pairs(epoch, slot, slots, done * self.batch_size)
        yield from islice(pairs, (len(mine) - done) * self.batch_size)

    def _pairs(self, epoch: int, slot: int, slots: int, done: int) -> Iterator[dict[str, Any]]:
        """Yield one slot's pairs without end, after the first `done`, which are decoded but not rendered.

        Decoding must reject everything that cannot be rendered, or a resumed run would count other pairs.
        """
        skipped: Skipped = []
        good = 0
        for number, raw in enumerate(self._samples(epoch, slot, slots, skipped)):
            rng = np.random.default_rng([self.seed, epoch, slot, number])
            try:
                record, image = decode_sample(raw, rng)
            except ValueError as error:
                self._skip(error, 1, skipped)
                continue
            good += 1
            if good > done:
                pair = self.builder(record, image, rng)
                yield {**pair, "index": number * slots + slot, "skipped": list(skipped)}
            skipped.clear()

    def _samples(self, epoch: int, slot: int, slots: int, skipped: Skipped) -> Iterator[dict[str, Any]]:
        """Yield encoded samples of this slot's shards, shuffled, pass after pass without end."""
        for number in count():
            sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch, number))
            order = np.random.default_rng(sequence).permutation(len(self.urls))
            urls = [self.urls[index] for index in order[slot::slots]]
            shuffle = wds.shuffle(
                self.shuffle_buffer,
                initial=max(1, self.shuffle_buffer // 4),
                rng=random.Random(f"{self.seed}/{epoch}/{number}/{slot}"),
            )
            seen = 0
            for sample in shuffle(self._unpack(urls, skipped)):
                seen += 1
                yield sample
            if seen == 0:
                raise ValueError(f"no readable sample in {', '.join(map(redacted, urls[:3]))}")

    def _unpack(self, urls: list[str], skipped: Skipped) -> Iterator[dict[str, Any]]:
        for url in urls:
            errors: list[_BadSampleError] = []
            handler = partial(self._on_shard_error, url, errors)
            delivered = 0
            for sample in wds.tarfile_to_samples(handler=handler)([{"url": openable(url)}]):
                delivered += 1
                yield sample
            if errors:  # the first ended the shard, the others follow from it
                self._skip(errors[0], max(1, round(self.sizes[url] - delivered)), skipped)

    def _on_shard_error(self, url: str, errors: list[_BadSampleError], error: Exception) -> bool:
        """Continue with the next member or shard; webdataset nests its handlers, so this one may see its own error."""
        if isinstance(error, _BadSampleError):
            raise error
        errors.append(_BadSampleError(redacted(f"{url}: unreadable shard ({_reason(url, error)})")))
        if self.on_error == "raise":
            raise errors[0]
        return True

    def _skip(self, error: ValueError, samples: int, skipped: Skipped) -> None:
        if self.on_error == "raise":
            raise error
        skipped.append((str(error), samples))
        if len(skipped) >= _ATTEMPTS:
            raise _BadSampleError(f"{_ATTEMPTS} unreadable samples in a row, the last: {error}")


class ShardLoader(SameOrder):
    """Batches of a `ShardStream`, with a length and exact resuming.

    Not a `DataLoader`, because Lightning would rebuild one for `overfit_batches`.

    Args:
        loader: Loader over the stream.
        stream: The stream. Lightning calls ``set_epoch`` of its position, the attribute ``sampler``.
        order: See `SameOrder`.
    """

    def __init__(self, loader: DataLoader, stream: ShardStream, order: dict[str, int]) -> None:
        self.sampler = stream.position
        self.order = order
        self._loader = loader
        self._batches = stream.batches

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self._loader

    @property
    def _iterator(self) -> Any:
        """The workers, which Lightning shuts down by this attribute of a `DataLoader`.

        Left to the garbage collector, each would delay the end of the program by five seconds.
        """
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self._loader._iterator = value


def openable(url: str) -> str:
    """Return a URL that webdataset can open: ``s3://`` is read by the AWS command line."""
    return f"pipe:aws s3 cp {shlex.quote(url)} -" if url.startswith("s3://") else url


def check_shard(url: str) -> None:
    """Decode the first pair of a shard.

    Raises:
        ValueError: The shard cannot be read, or its first pair cannot be decoded.
    """
    try:
        first = next(iter(wds.tarfile_to_samples()([{"url": openable(url)}])), None)
    except Exception as error:  # webdataset passes on any error of opening or unpacking
        raise ValueError(f"{url}: unreadable shard ({_reason(url, error)})") from error
    if first is None:
        raise ValueError(f"{url}: a shard without pairs")
    decode_sample(first, np.random.default_rng(0))


def _reason(url: str, error: Exception) -> str:
    """Return the cause of an error without the context that webdataset appends to it after " @ "."""
    reason = str(error.args[0] if error.args else error).split(" @ ")[0]
    ended = _COMMAND_ENDED.match(reason)
    if ended is not None:
        return f"its command ended with exit status {ended['status']}"
    if reason == "empty file" and openable(url).startswith("pipe:"):
        return "its command wrote nothing"
    return reason
