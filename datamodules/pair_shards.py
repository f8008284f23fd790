"""Image-caption pairs in WebDataset shards, evaluated on public benchmarks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from webdataset.shardlists import expand_urls

from datamodules.base import FetalDataModule
from datamodules.fetal_planes import FetalPlanesDataModule
from datamodules.hc18 import HC18DataModule
from datamodules.image_files import first_few
from datamodules.loaders import PlainErrorLoader, resume_position
from datamodules.pair_sample import PairBuilder
from datamodules.record import Record
from datamodules.sampler import process_rank
from datamodules.shard_stream import ShardLoader, ShardStream, StreamPosition, check_shard

MANIFEST = "manifest.json"


class PairShardsDataModule(FetalDataModule):
    """Train on tar shards of pairs; select and report on HC18 and FETAL_PLANES_DB where they are given.

    A sample is an image member (``png``, ``jpg``, ...) with a ``txt`` caption, or with a ``json`` member
    that holds ``caption`` or a list ``captions`` and, optionally, ``plane``, ``brain_plane``, ``patient``,
    ``pixel_size_mm``, ``hc_mm`` and ``ga_days``.

    Args:
        urls: The shards, for example ``corpus/pairs-{000000..000041}.tar``: paths, ``s3://`` (needs the AWS
            command line) or ``pipe:`` URLs; braces are expanded, ``::`` joins several. A folder stands for
            all its ``.tar`` files.
        num_samples: Pairs of an epoch over all processes; by default what ``manifest.json`` beside the
            shards counts.
        shuffle_buffer: Encoded samples that each reading process draws from.
        planes_root: FETAL_PLANES_DB, for the benchmarks "planes" and "subplanes"; null leaves them out.
        hc18_root: HC18, for the benchmark "hc18"; null leaves it out.
        **kwargs: For `FetalDataModule`.
    """

    def __init__(
        self,
        urls: str,
        num_samples: int | None = None,
        shuffle_buffer: int = 1000,
        planes_root: str | None = None,
        hc18_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if shuffle_buffer < 1 or (num_samples is not None and num_samples < 1):
            raise ValueError(
                f"data: num_samples {num_samples} and shuffle_buffer {shuffle_buffer} must be positive"
            )
        self.urls = list_shards(urls)
        self.num_samples = num_samples
        self.shuffle_buffer = shuffle_buffer
        self._evaluated: list[FetalDataModule] = []
        if planes_root is not None:
            self._evaluated.append(FetalPlanesDataModule(root=planes_root))
        if hc18_root is not None:
            self._evaluated.append(HC18DataModule(root=hc18_root))
        self.benchmarks = tuple(name for module in self._evaluated for name in module.benchmarks)

    def read_records(self) -> list[Record]:
        """Check the shards and read the evaluation sets; their training images stay unused.

        Raises:
            FileNotFoundError: Shards are missing (all at once), or an evaluation set is.
        """
        check_shards(self.urls)
        return [record for module in self._evaluated for record in module.records]

    def check_batches(self) -> None:
        """Look whether the shards feed every reading process, and their pairs fill a batch.

        Raises:
            ValueError: There are fewer shards than reading processes, or fewer pairs than one batch.
        """
        self._epoch()

    def check_images(self) -> None:
        """Decode the evaluation sets' images, as the base class does, and the first pair of two shards on this machine.

        Raises:
            FileNotFoundError: An image of an evaluation set is missing.
            ValueError: An image or a pair cannot be decoded.
        """
        super().check_images()
        local = [url for url in self.urls if "://" not in url and not url.startswith("pipe:")]
        if self.on_error == "raise":
            for url in dict.fromkeys([*local[:1], *local[-1:]]):
                check_shard(url)

    def _epoch(self) -> tuple[list[float], int]:
        """Return the pairs of each shard, and how many batches of an epoch each process trains on."""
        world = process_rank()[1]
        readers = max(1, self.num_workers)
        if len(self.urls) < world * readers:
            raise ValueError(
                f"data: {len(self.urls)} shards cannot feed {world} processes with {readers} workers each; "
                "lower num_workers or write more, smaller shards"
            )
        sizes = shard_sizes(self.urls, self.num_samples)
        samples = self.num_samples or int(sum(sizes))
        batches = samples // (self.batch_size * world)
        if batches == 0:
            raise ValueError(f"data: {samples} pairs do not fill a batch of {self.batch_size} x {world}")
        return sizes, batches

    def train_dataloader(self) -> ShardLoader:  # type: ignore[override]
        """Return the stream of augmented pairs, placed where a resumed run goes on.

        Raises:
            ValueError: There are fewer shards than reading processes, or fewer pairs than one batch.
        """
        rank, world = process_rank()
        sizes, batches = self._epoch()
        start = (0, 0) if self.overfits else resume_position(self.trainer)
        position = StreamPosition(*start, fixed=self.overfits)
        stream = ShardStream(
            self.urls,
            sizes,
            PairBuilder(*self._contracts(), self.augmentation, student_only=not self._asks_teacher),
            position,
            batches=batches,
            batch_size=self.batch_size,
            seed=self.seed,
            on_error=self.on_error,
            shuffle_buffer=self.shuffle_buffer,
            rank=rank,
            world=world,
        )
        loader = PlainErrorLoader(
            stream,
            batch_size=self.batch_size,
            persistent_workers=self.num_workers > 0,
            collate_fn=self._collate(student_only=not self._asks_teacher),
            **self._reading(),
        )
        order = {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shards": len(self.urls),
            "processes": world,
            "workers": max(1, self.num_workers),
            "shuffle_buffer": self.shuffle_buffer,
        }
        return ShardLoader(loader, batches, position, order)

    def val_dataloader(self) -> DataLoader | list[Any]:
        """Return the validation pairs of the evaluation sets; none without an evaluation set."""
        return super().val_dataloader() if self._evaluated else []

    def test_dataloader(self) -> DataLoader | list[Any]:
        """Return the test pairs of the evaluation sets; none without an evaluation set."""
        return super().test_dataloader() if self._evaluated else []


def list_shards(urls: str) -> list[str]:
    """Expand what names shards: URLs with braces, joined by ``::``, or a folder of tar files."""
    folder = Path(urls)
    if folder.is_dir():
        return [str(path) for path in sorted(folder.glob("*.tar"))] or [str(folder / "*.tar")]
    expanded: list[str] = expand_urls(urls)
    return expanded


def check_shards(urls: list[str]) -> None:
    """Find out before training that shards cannot be opened.

    Raises:
        FileNotFoundError: Local shards are missing, or ``s3://`` is asked for without the AWS command line.
    """
    local = [
        Path(url.removeprefix("file:")) for url in urls if "://" not in url and not url.startswith("pipe:")
    ]
    missing = [str(path) for path in local if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"data: {len(missing)} of {len(urls)} shards are missing: {first_few(missing)}; SHARDS=folder "
            "says where they are, and make shards ROOT=... OUT=folder writes them from the public sets"
        )
    if any(url.startswith("s3://") for url in urls) and shutil.which("aws") is None:
        raise FileNotFoundError("data: s3:// shards are read by the AWS command line; install awscli")


def read_manifest(urls: list[str]) -> dict[str, Any]:
    """Return the manifest beside the first shard, which ``make shards`` wrote; empty where there is none."""
    manifest = Path(urls[0]).parent / MANIFEST
    if not manifest.is_file():
        return {}
    content: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    return content


def shard_sizes(urls: list[str], num_samples: int | None = None) -> list[float]:
    """Return how many pairs each shard holds: from the manifest beside them, else an equal share.

    Args:
        urls: The shards.
        num_samples: Pairs of an epoch, which stand for the corpus where no manifest lists every shard.

    Raises:
        ValueError: Neither says how many there are.
    """
    manifest = Path(urls[0]).parent / MANIFEST
    if manifest.is_file():
        counts = {shard["name"]: shard["samples"] for shard in read_manifest(urls)["shards"]}
        unknown = [url for url in urls if Path(url).name not in counts]
        if not unknown:
            return [counts[Path(url).name] for url in urls]
        problem = f"{manifest} does not list {unknown[0]}; set num_samples"
    else:
        problem = f"set num_samples, the pairs of an epoch; there is no {manifest} to count them"
    if num_samples is None:
        raise ValueError(f"data: {problem}")
    return [num_samples / len(urls)] * len(urls)
