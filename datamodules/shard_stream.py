"""Training pairs streamed from WebDataset tar shards."""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.loaders import check_same_order
from datamodules.pair_dataset import OnError
from datamodules.pair_sample import PairBuilder
from datamodules.redaction import redacted
from datamodules.shard_sample import decode_sample

_ATTEMPTS = 100
# How webdataset tells that a pipe failed: with the arguments of its process, not the shard.
_COMMAND_ENDED = re.compile(r"\(\(.*\): exit (?P<status>-?\d+) \(read\)")

Skipped = list[tuple[str, int]]  # what was left out, and how many samples that is


class _BadSampleError(ValueError):
    """A sample or shard that cannot be read."""


class StreamPosition:
    """Epoch and first batch of a stream, in memory that reading processes share; a fixed one stays in its epoch."""

    def __init__(self, epoch: int, batch: int, fixed: bool = False) -> None:
        self._fixed = fixed
        self._values = torch.tensor([epoch, epoch, batch]).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; Lightning calls this."""
        if not self._fixed:
            self._values[0] = epoch

    def current(self) -> tuple[int, int]:
        """Return (epoch, first batch); only the epoch a run was resumed in begins after batch 0."""
        epoch, resumed_epoch, batch = self._values.tolist()
        return epoch, batch if epoch == resumed_epoch else 0


class ShardStream(IterableDataset):
    """One process's part of an epoch, drawn from an endless pass over the shards.

    Every pass visits the shards in a new order, each shard in exactly one reading process of one node. All
    processes deliver the same number of batches, however uneven the shards, so that none waits for another.

    Args:
        urls: The shards: paths, ``s3://`` or ``pipe:`` URLs.
        sizes: Samples that each shard should hold, by which an unreadable one is counted.
        builder: Renders a pair.
        position: Where the epoch begins.
        batches: Batches of an epoch and process.
        batch_size: Pairs of a batch.
        seed: Of order, captions and augmentation.
        on_error: What a bad sample does; "skip" takes the next one and says so under ``skipped``.
        shuffle_buffer: Encoded samples that a reading process holds to draw from.
        rank: This process.
        world: Number of processes.
    """

    def __init__(
        self,
        urls: list[str],
        sizes: list[float],
        builder: PairBuilder,
        position: StreamPosition,
        *,
        batches: int,
        batch_size: int,
        seed: int,
        on_error: OnError,
        shuffle_buffer: int,
        rank: int,
        world: int,
    ) -> None:
        self._urls = urls
        self._sizes = dict(zip(urls, sizes, strict=True))
        self._builder = builder
        self._position = position
        self._batches = batches
        self._batch_size = batch_size
        self._seed = seed
        self._on_error = on_error
        self._shuffle_buffer = shuffle_buffer
        self._rank = rank
        self._world = world

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, first = self._position.current()
        # The loader asks its workers in turn, beginning with number 0: batch b belongs to stream b % workers.
        stream = (number + first) % workers
        mine = range(stream, self._batches, workers)
        done = len(range(stream, first, workers))
        slot, slots = self._rank * workers + stream, self._world * workers
        pairs = self._pairs(epoch, slot, slots, done * self._batch_size)
        yield from islice(pairs, (len(mine) - done) * self._batch_size)

    def _pairs(self, epoch: int, slot: int, slots: int, done: int) -> Iterator[dict[str, Any]]:
        """Yield one slot's pairs without end, after `done` of them: those are decoded but not rendered.

        Decoding therefore refuses all that cannot be rendered, or a resumed run would count other pairs.
        """
        skipped: Skipped = []
        good = 0
        for number, raw in enumerate(self._samples(epoch, slot, slots, skipped)):
            rng = np.random.default_rng([self._seed, epoch, slot, number])
            try:
                record, image = decode_sample(raw, rng)
            except ValueError as error:
                self._note(error, 1, skipped)
                continue
            good += 1
            if good > done:
                pair = self._builder(record, image, rng)
                yield {**pair, "index": number * slots + slot, "skipped": list(skipped)}
            skipped.clear()

    def _samples(self, epoch: int, slot: int, slots: int, skipped: Skipped) -> Iterator[dict[str, Any]]:
        """Yield encoded samples of this slot's shards, shuffled, pass after pass without end."""
        for number in count():
            sequence = np.random.SeedSequence(self._seed, spawn_key=(epoch, number))
            order = np.random.default_rng(sequence).permutation(len(self._urls))
            urls = [self._urls[index] for index in order[slot::slots]]
            shuffle = wds.shuffle(
                self._shuffle_buffer,
                initial=max(1, self._shuffle_buffer // 4),
                rng=random.Random(f"{self._seed}/{epoch}/{number}/{slot}"),
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
            if errors:  # the first broke the shard off, any other follows from it
                self._note(errors[0], max(1, round(self._sizes[url] - delivered)), skipped)

    def _on_shard_error(self, url: str, errors: list[_BadSampleError], error: Exception) -> bool:
        """Go on with the next member or shard; webdataset nests its handlers, so ours may come back."""
        if isinstance(error, _BadSampleError):
            raise error
        # The library appends its own context to the first argument, behind " @ ".
        reason = str(error.args[0] if error.args else error).split(" @ ")[0]
        ended = _COMMAND_ENDED.match(reason)
        if ended is not None:
            reason = f"its command ended with exit status {ended['status']}"
        elif reason == "empty file" and openable(url).startswith("pipe:"):
            reason = "its command wrote nothing"
        errors.append(_BadSampleError(redacted(f"{url}: unreadable shard ({reason})")))
        if self._on_error == "raise":
            raise errors[0]
        return True

    def _note(self, error: ValueError, samples: int, skipped: Skipped) -> None:
        if self._on_error == "raise":
            raise error
        skipped.append((str(error), samples))
        if len(skipped) >= _ATTEMPTS:
            raise _BadSampleError(f"{_ATTEMPTS} unreadable samples in a row, the last: {error}")


class ShardLoader:
    """Batches of a `ShardStream`, with a length and a place to resume from.

    Args:
        loader: Over the stream.
        batches: Batches of an epoch.
        position: The stream's position; Lightning finds ``set_epoch`` under the name ``sampler``.
        order: What the order of samples depends on, by name.
    """

    def __init__(
        self, loader: DataLoader, batches: int, position: StreamPosition, order: dict[str, int]
    ) -> None:
        self.sampler = position
        self._loader = loader
        self._batches = batches
        self._order = order

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self._loader

    @property
    def _iterator(self) -> Any:
        """The reading processes: Lightning ends those of a `DataLoader`, which it knows by this attribute.

        Left to the garbage collector, each of them would hold the program up for five seconds.
        """
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self._loader._iterator = value

    def state_dict(self) -> dict[str, Any]:
        """Return what the order of samples depends on."""
        return {"order": self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that a run resumed within an epoch keeps the order.

        Raises:
            ValueError: Something that the order depends on has changed.
        """
        check_same_order(state["order"], self._order)


def openable(url: str) -> str:
    """Return what the webdataset library can open: ``s3://`` goes through the AWS command line."""
    return f"pipe:aws s3 cp {shlex.quote(url)} -" if url.startswith("s3://") else url


def check_shard(url: str) -> None:
    """Decode the first pair of a shard.

    Raises:
        ValueError: The shard cannot be read, or its first pair cannot be decoded.
    """
    try:
        first = next(iter(wds.tarfile_to_samples()([{"url": openable(url)}])), None)
    except Exception as error:  # webdataset hands on whatever opening or unpacking raised
        reason = str(error.args[0] if error.args else error).split(" @ ")[0]
        raise ValueError(f"{url}: unreadable shard ({reason})") from error
    if first is None:
        raise ValueError(f"{url}: a shard without pairs")
    decode_sample(first, np.random.default_rng(0))
