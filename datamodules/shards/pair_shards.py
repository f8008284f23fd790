"""LightningDataModule of image-caption pairs in WebDataset shards, evaluated on public benchmarks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from webdataset.shardlists import expand_urls

from datamodules.base import require_at_least
from datamodules.corpora.public import CORPORA, ScoredOnPublicSets
from datamodules.pairs.loaders import resume_position
from datamodules.pairs.sample import PairBuilder
from datamodules.pairs.sampler import process_rank
from datamodules.record import Record
from datamodules.redaction import PIPE, redacted
from datamodules.shards.manifest import MANIFEST
from datamodules.shards.storage import ShardStorage, is_remote
from datamodules.shards.stream import ShardLoader, ShardStream
from models.messages import count, first_few


class PairShardsDataModule(ScoredOnPublicSets):
    """Train on tar shards of pairs; select and report on HC18 and FETAL_PLANES_DB where they are given.

    A sample is an image member (``png``, ``jpg``, ...) with a ``txt`` caption, or with a ``json`` member
    that has ``caption`` or a list ``captions`` and, optionally, ``plane``, ``brain_plane``, ``patient``,
    ``pixel_size_mm``, ``hc_mm`` and ``ga_days``.

    Args:
        urls: A folder of tar files, or shards such as ``corpus/pairs-{000000..000041}.tar``: paths,
            ``s3://``, ``gs://``, ``https://`` or ``pipe:`` URLs; braces are expanded, ``::`` joins several of these.
        num_samples: Pairs per epoch over all processes; by default the number in ``manifest.json`` beside the
            shards.
        shuffle_buffer: Encoded samples in the shuffle buffer of each worker.
        shard_cache: Folder in which remote shards are kept and verified before they are read.
        shard_cache_gb: Its size in GB; the least recently used shards are removed.
        shard_patience: Seconds for which a store may fail or be silent before the run ends.
        allow_pipe: Whether ``pipe:`` URLs may run their commands in a shell.
        **kwargs: For `ScoredOnPublicSets`.
    """

    def __init__(
        self,
        urls: str,
        num_samples: int | None = None,
        shuffle_buffer: int = 1000,
        shard_cache: str = "data/cache/shards",
        shard_cache_gb: float = 50.0,
        shard_patience: float = 600.0,
        allow_pipe: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.draws is not None:
            raise ValueError(
                "data.draws: pairs of a stream have no index; leave it out, or train from image files"
            )
        require_at_least("data", 1, num_samples=num_samples, shuffle_buffer=shuffle_buffer)
        require_at_least("data", 0, shard_cache_gb=shard_cache_gb, shard_patience=shard_patience)
        self.urls = list_shards(urls)
        pipes = [redacted(url) for url in self.urls if url.startswith(PIPE)]
        if pipes and not allow_pipe:
            raise ValueError(
                f"data: {pipes[0]}: training would run this command in a shell; allow it with --data.allow_pipe=true"
            )
        self._store = ShardStorage(Path(shard_cache), int(shard_cache_gb * 1e9), shard_patience)
        self.num_samples = num_samples
        self.shuffle_buffer = shuffle_buffer

    def read_records(self) -> list[Record]:
        """Check the shards and read the evaluation sets, whose training images are not used."""
        check_shards(self.urls)
        _ = self.storage
        return [record for module in self.public_sets for record in module.records]

    def split(self, name: str) -> list[Record]:
        """Return the images of the public sets in a split; the shards are not looked up."""
        return [record for module in self.public_sets for record in module.split(name)]

    @cached_property
    def listed(self) -> dict[str, dict[str, Any]]:
        """Shard -> its entry in the manifest beside it."""
        return self._store.listed(self.urls)

    @cached_property
    def storage(self) -> ShardStorage:
        """Opens the shards; every remote one has been looked up."""
        remote = [url for url in self.urls if is_remote(url)]
        return replace(self._store, remote=self._store.described(remote, self.listed) if remote else {})

    def trained_tables(self) -> dict[str, bool]:
        """Return the tables that the shards were written from; see the base class."""
        manifests = self._store.manifests(self.urls).values()
        sources = [source for manifest in manifests for source in manifest.get("sources", [])]
        return {
            source["name"]: source.get("evaluation_images_left_out", 0) > 0
            for source in sources
            if source["name"] not in CORPORA
        }

    def check_batches(self) -> None:
        """Check that the shards feed every worker and that their pairs fill a batch."""
        self._epoch()

    def _epoch(self) -> tuple[dict[str, float], int]:
        """Return the pairs of each shard, and the batches per epoch of each process."""
        world, workers = process_rank()[1], max(1, self.num_workers)
        if len(self.urls) < world * workers:
            raise ValueError(
                f"data: {count(len(self.urls), 'shard')} cannot feed {count(world, 'process', 'processes')} with "
                f"{count(workers, 'worker')} each; lower num_workers or write more, smaller shards"
            )
        sizes = shard_sizes(self.urls, self.listed, self.num_samples)
        samples = self.num_samples or int(sum(sizes[url] for url in self.urls))
        batches = samples // (self.batch_size * world)
        if batches == 0:
            raise ValueError(
                f"data: {count(samples, 'pair')} cannot fill a batch of {self.batch_size} x {world}"
            )
        return sizes, batches

    def train_dataloader(self) -> ShardLoader:  # type: ignore[override]
        """Return the stream of augmented pairs, at the position where a resumed run continues."""
        rank, world = process_rank()
        sizes, batches = self._epoch()
        builder = PairBuilder(*self._contracts(), self.augmentation, student_only=not self._asks_teacher)
        stream = ShardStream(
            self.urls, self.storage, sizes, builder, fixed=self.overfits,
            start=(0, 0) if self.overfits else resume_position(self.trainer),
            batches=batches, batch_size=self.batch_size, seed=self.seed, on_error=self.on_error,
            shuffle_buffer=self.shuffle_buffer, rank=rank, world=world,
        )  # fmt: skip
        order = {
            "seed": self.seed, "batch_size": self.batch_size, "shards": len(self.urls), "processes": world,
            "workers": max(1, self.num_workers), "shuffle_buffer": self.shuffle_buffer,
        }  # fmt: skip
        return ShardLoader(stream, order, persistent_workers=self.num_workers > 0, **self._loader_options())


def list_shards(urls: str) -> list[str]:
    """Expand URLs with braces, and folders of tar files, joined by ``::``, to a list of shards."""
    shards: list[str] = []
    for part in urls.split("::"):
        folder = Path(part)
        if not re.search("://|pipe:", part) and folder.is_dir():
            shards += map(str, sorted(folder.glob("[!.]*.tar")) or [folder / "*.tar"])
        else:
            shards += expand_urls(part)
    return shards


def check_shards(urls: list[str]) -> None:
    """Check before training that local shards exist."""
    local = [url for url in urls if not is_remote(url) and not url.startswith(PIPE)]
    missing = [url for url in local if not Path(url.removeprefix("file:")).is_file()]
    if missing:
        raise FileNotFoundError(
            f"data: {len(missing)} of {count(len(urls), 'shard')} missing: {first_few(missing)}; set their folder "
            "with SHARDS=folder, or write them from the public sets with make shards ROOT=... OUT=folder"
        )


def shard_sizes(
    urls: list[str], listed: Mapping[str, Any], num_samples: int | None = None
) -> dict[str, float]:
    """Return the number of pairs of each shard: from the manifests, else equal shares of `num_samples`.

    Args:
        urls: The shards.
        listed: Shard -> its entry in the manifest beside it (see `ShardStorage.listed`).
        num_samples: Pairs of an epoch.
    """
    unknown = [url for url in urls if url not in listed]
    if not unknown:
        return {url: listed[url]["samples"] for url in urls}
    if num_samples is not None:
        return dict.fromkeys(urls, num_samples / len(urls))
    raise ValueError(
        f"data: no {MANIFEST} beside the shards lists {redacted(unknown[0])}; set num_samples, the pairs of an epoch"
    )
