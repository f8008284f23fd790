"""Stream of training pairs from WebDataset tar shards."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from io import IOBase
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_expander

from datamodules.pairs.captions import SPACING
from datamodules.pairs.image_reading import IMAGE_SUFFIXES, read_image
from datamodules.pairs.loaders import PlainErrorLoader, SampleOrderState
from datamodules.pairs.sample import OnError, PairBuilder
from datamodules.record import Record
from datamodules.redaction import PIPE, redacted
from datamodules.shards.storage import ShardStorage
from models.messages import one_line, problems

_ATTEMPTS = 100
_IMAGE_KEYS = sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
# Message of webdataset for a failed pipe; it shows the arguments of the process instead of the shard.
_COMMAND_ENDED = re.compile(r"\(\(.*\): exit (?P<status>-?\d+) \(read\)")

Skipped = list[tuple[str, int]]  # message, number of samples left out


class Facts(BaseModel):
    """JSON member of a sample; every entry is optional, and others are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    caption: str | None = None
    captions: list[str] | None = None
    patient: Any = None
    plane: str | None = None
    brain_plane: str | None = None
    hc_mm: PositiveFloat | None = None
    pixel_size_mm: PositiveFloat | None = None
    ga_days: PositiveFloat | None = None


def decode_sample(raw: dict[str, Any], rng: np.random.Generator) -> tuple[Record, np.ndarray]:
    """Decode the members of a sample: a record and its image, uint8 [H, W] or [H, W, 3].

    The caption comes from the JSON member's ``captions`` (one is drawn) or ``caption``, else from ``txt``.

    Raises:
        ValueError: A member is missing, unreadable or of the wrong type; the message names shard and key.
    """
    name = f"{redacted(raw['__url__'])}: {raw['__key__']}"
    try:
        facts = Facts.model_validate_json(raw.get("json", b"{}"))
        text = raw.get("txt", b"").decode("utf-8").strip()
    except ValidationError as error:
        raise ValueError(f"{name}: json: {one_line(problems(error), 300)}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: txt: {error}") from None
    captions = facts.captions or [facts.caption or text]
    caption = captions[int(rng.integers(len(captions)))]
    if not caption.strip():
        raise ValueError(f"{name}: the caption is empty")
    if SPACING in caption and facts.pixel_size_mm is None:
        raise ValueError(f"{name}: the caption needs the pixel size, which the json member does not give")
    image_key = next((key for key in _IMAGE_KEYS if key in raw), None)
    if image_key is None:
        raise ValueError(f"{name}: no image among its members {[k for k in raw if not k.startswith('__')]}")
    record = Record(
        corpus="shards",
        name=raw["__key__"],
        image=Path(raw["__url__"]),
        patient=str(facts.patient or raw["__key__"]),
        caption=caption,
        **facts.model_dump(exclude={"caption", "captions", "patient"}),
    )
    return record, read_image(raw[image_key], name)


@dataclass(eq=False)
class ShardStream(IterableDataset):
    """One process's part of an epoch, from an endless pass over the shards.

    Every pass visits the shards in a new order, each shard in exactly one worker of one process. All processes
    deliver the same number of batches, however uneven the shards, so that none waits for another.

    Attributes:
        storage: Opens the shards.
        sizes: Shard -> number of samples it should contain, by which an unreadable one is counted.
        start: Epoch and batch at which the stream starts; later epochs start at batch 0.
        fixed: Stay in that epoch, for ``overfit_batches``.
        batches: Batches per epoch and process.
        on_error: What a bad sample does; "skip" takes the next one and reports it under ``skipped``.
        shuffle_buffer: Encoded samples in the shuffle buffer of each worker.
    """

    urls: list[str]
    storage: ShardStorage
    sizes: dict[str, float]
    builder: PairBuilder
    start: tuple[int, int]
    fixed: bool
    batches: int
    batch_size: int
    seed: int
    on_error: OnError
    shuffle_buffer: int
    rank: int
    world: int

    def __post_init__(self) -> None:
        self._epoch = torch.tensor(self.start[0]).share_memory_()  # workers live for several epochs

    def set_epoch(self, epoch: int) -> None:
        """Start `epoch`."""
        if not self.fixed:
            self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch = int(self._epoch)
        first = self.start[1] if epoch == self.start[0] else 0
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
                pair = self.builder.pair(record, image, rng)
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
            sample = None
            for sample in shuffle(self._unpack(urls, skipped)):
                yield sample
            if sample is None:
                raise ValueError(f"no readable sample in {', '.join(map(redacted, urls[:3]))}")

    def _unpack(self, urls: list[str], skipped: Skipped) -> Iterator[dict[str, Any]]:
        for url, stream in self.storage.opened(urls):
            errors: list[Exception] = []
            delivered = 0
            if isinstance(stream, Exception):
                errors.append(stream)
            else:
                note = partial(_collect, errors)
                with stream if isinstance(stream, IOBase) else nullcontext():
                    members = tar_file_expander([{"url": url, "stream": stream}], handler=note)
                    for sample in group_by_keys(members, handler=note):
                        delivered += 1
                        yield sample
            # A damaged header reads as the archive's end. Without a manifest the sizes are estimates.
            if not errors and isinstance(size := self.sizes[url], int) and delivered < size:
                errors.append(ValueError(f"{delivered} of its {size} samples found"))
            if errors:  # the first ended the shard or lost a sample, the others follow from it
                self._skip(_unreadable(url, errors[0]), max(1, round(self.sizes[url] - delivered)), skipped)

    def _skip(self, error: ValueError, samples: int, skipped: Skipped) -> None:
        if self.on_error == "raise":
            raise error
        skipped.append((str(error), samples))
        if len(skipped) >= _ATTEMPTS:
            raise ValueError(f"{_ATTEMPTS} unreadable samples in a row, the last: {error}")


class ShardLoader(SampleOrderState):
    """Batches of a `ShardStream`, with a length and exact resuming.

    Not a `DataLoader`, because Lightning would rebuild one for ``overfit_batches``.
    """

    def __init__(self, stream: ShardStream, order: dict[str, int], **kwargs: Any) -> None:
        self.sampler = stream  # Lightning calls its `set_epoch`
        self.order = order
        collate = stream.builder.collate
        self._loader = PlainErrorLoader(stream, batch_size=stream.batch_size, collate_fn=collate, **kwargs)

    def __len__(self) -> int:
        return self.sampler.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self._loader

    # Lightning ends the workers by this attribute. Left to the garbage collector, each would delay the end of the
    # program by five seconds.
    @property
    def _iterator(self) -> Any:
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self._loader._iterator = value


def _collect(errors: list[Exception], error: Exception) -> bool:
    """Handler for webdataset: note an error and go on with the next member or shard."""
    errors.append(error)
    return True


def _unreadable(url: str, error: Exception) -> ValueError:
    """Return the error of a shard, without the context that webdataset appends to the cause after " @ "."""
    reason = str(error.args[0] if error.args else error).split(" @ ")[0]
    if ended := _COMMAND_ENDED.match(reason):
        reason = f"its command ended with exit status {ended['status']}"
    elif reason == "empty file" and url.startswith(PIPE):
        reason = "its command wrote nothing"
    return ValueError(redacted(f"{url}: unreadable shard ({reason})"))
