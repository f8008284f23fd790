"""Base class of the data modules: splits by patient, training pairs, evaluation images.

A training batch is a dict:
    student_image   float32 [B, 3, S, S], normalised for the student
    teacher_image   float32 [B, 3, T, T], the same picture normalised for the teacher (absent without a teacher, and in
        training when the loss does not use it)
    teacher_embedding   float32 [B, 2, D], stored image and text embeddings in place of both teacher inputs (see
        `use_teacher_store`)
    student_tokens, teacher_tokens   int64 [B, L]; one tensor when text, tokenizer and length agree
    caption_id      int64 [B], hash of the student's caption: equal captions have equal ids
    class_id        int64 [B], hash of plane and sub-plane: equal classes have equal ids (absent if a plane is unknown)
    index           int64 [B], position in the list of training records
    name, plane, brain_plane   lists of B strings, "" where unknown
    hc_mm, pixel_size_mm       float32 [B], NaN where unknown
    skipped         list of (message, number of samples) that were replaced; an unreadable shard counts many samples

An evaluation batch has image float32 [B, 3, S, S], index, name, plane, brain_plane, hc_mm, pixel_size_mm,
patient (list of strings), and width and height (int64 [B]) of the original image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.evaluation.dataset import EvaluationDataset, collate_evaluation, evaluation_workers
from datamodules.evaluation.own_benchmarks import OwnBenchmark
from datamodules.pairs.image_reading import read_image
from datamodules.pairs.loaders import PlainErrorLoader, ResumableLoader, resume_position
from datamodules.pairs.sample import OnError, PairBuilder, PairDataset
from datamodules.pairs.sampler import EpochSampler, FixedSampler, process_rank
from datamodules.pairs.stores import TeacherStore, open_cache
from datamodules.pairs.transforms import Augmentation
from datamodules.record import Record, first_of_each_split
from metrics.benchmarks import BENCHMARKS
from models import Preprocessing
from models.messages import count

SPLITS = ("train", "val", "test")


def require_at_least(section: str, least: int, /, **settings: float | None) -> None:
    """Raise a ValueError for a setting of "data" or "phantom" below `least`; None passes."""
    for name, value in settings.items():
        if value is not None and value < least:
            raise ValueError(f"{section}: {name} must be at least {least}, not {value}")


class FetalDataModule(LightningDataModule):
    """A corpus of fetal ultrasound. Subclasses implement `read_records` and name their `benchmarks`.

    Image sizes, normalisation and tokenizers come from the models: from the trainer's module, or from
    `bind` without a trainer.

    Args:
        batch_size: Training pairs per batch and process.
        evaluation_batch_size: Images per batch in validation and evaluation.
        num_workers: Worker processes; 0 reads in the main process.
        augmentation: Random augmentation of the training images; null for none.
        zoom: Overrides `Augmentation.zoom`, the magnification of training images.
        mask_overlays: Overrides `Augmentation.mask_overlays`: remove text, rulers and callipers from training images.
        on_error: What an unreadable training image or an empty caption does: "raise", or "skip" (replace
            the sample and report it). Validation, test and evaluation always raise.
        seed: Seed of order, captions and augmentation; null for that of the run (in Python 0).
        pin_memory: Pinned host memory for the copies to a GPU.
        cache: Folder for decoded training images (see `datamodules.pairs.stores`): faster epochs for
            side^2 bytes per image on disk, and with `draws` another image_size^2 bytes per draw for the student's
            view. Both are reserved at the start; without that space, training continues without a cache. Null decodes
            the files in every epoch.
        most_images: Maximum number of images per split, for a quick run; null takes all.
        draws: Number of different augmentations of each training image: epoch e uses draw e modulo `draws`. Null: new
            ones in every epoch. See `callbacks.TeacherCache`.
        benchmarks: Benchmarks of your own beside those of the corpus (docs/own-data.md).

    Attributes:
        benchmarks: Benchmarks that the corpus can score.
        simulated: Whether a simulator makes every image, which no benchmark of one's own has. Only then are images sent
            to W&B by default.
    """

    benchmarks: tuple[str, ...] = ()
    simulated: bool = False

    def __init__(
        self,
        batch_size: int = 128,
        evaluation_batch_size: int = 64,
        num_workers: int = 2,
        augmentation: Augmentation | None = Augmentation(),  # noqa: B008 - frozen
        on_error: OnError = "raise",
        seed: int | None = None,
        pin_memory: bool = False,
        cache: str | None = None,
        zoom: float = 0.0,
        most_images: int | None = None,
        draws: int | None = None,
        mask_overlays: bool = False,
        benchmarks: list[OwnBenchmark] | None = None,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "evaluation_batch_size": evaluation_batch_size}
        require_at_least("data", 1, **sizes, most_images=most_images, draws=draws)
        require_at_least("data", 0, num_workers=num_workers)
        self.batch_size = batch_size
        self.evaluation_batch_size = evaluation_batch_size
        self.num_workers = num_workers
        if mask_overlays and augmentation is None:
            raise ValueError("data: mask_overlays is part of the augmentation, which is null")
        if augmentation is not None and zoom and augmentation.zoom not in (0, zoom):
            raise ValueError(
                f"data: zoom is {zoom:g} and augmentation.zoom is {augmentation.zoom:g}; set --data.zoom alone"
            )
        self.augmentation = augmentation and replace(
            augmentation,
            zoom=zoom or augmentation.zoom,
            mask_overlays=mask_overlays or augmentation.mask_overlays,
        )
        self.on_error: OnError = on_error
        self.seed = seed or 0
        self.pin_memory = pin_memory
        self.cache = cache
        self.most_images = most_images
        self.draws = draws
        self._views: tuple[Preprocessing, Preprocessing | None] | None = None
        self._records: list[Record] | None = None
        self.own = benchmarks or []
        self.simulated = self.simulated and not self.own
        self.benchmarks = (*self.benchmarks, *(benchmark.register() for benchmark in self.own))
        self._own_records: dict[str, list[Record]] = {}
        self._teacher_store: TeacherStore | None = None
        self._asks_teacher = True

    @abstractmethod
    def read_records(self) -> list[Record]:
        """Return every record of the corpus with its `split` set to "train", "val" or "test"."""

    def trained_tables(self) -> dict[str, bool]:
        """Return the tables that shards were written from: name -> whether their test patients were left out."""
        return {}

    @property
    def records(self) -> list[Record]:
        """All records of the corpus, read once; with `most_images` the first ones of each split."""
        if self._records is None:
            self._records = self.read_records()
            if tables := [one for one in self.own if one.table is not None]:
                trained = self.trained_tables()
                self._own_records = {one.name: one.read(self._records, trained) for one in tables}
            if (most := self.most_images) is not None:
                self._own_records = {
                    name: first_of_each_split(own, most) for name, own in self._own_records.items()
                }
                self._records = first_of_each_split(self._records, most)
        return self._records

    def bind(
        self, student: Preprocessing, teacher: Preprocessing | None = None, asks_teacher: bool = True
    ) -> None:
        """Set the preprocessing contracts of the models that the pairs are for.

        Without `asks_teacher`, training pairs have no teacher's side; validation pairs always have both.
        """
        self._views = (student, teacher)
        self._asks_teacher = asks_teacher

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Read the corpus's tables and, with a trainer, take the contracts from its module."""
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        if hasattr(module, "student"):
            teacher = getattr(module, "teacher", None)
            views = (module.student.preprocessing, None if teacher is None else teacher.preprocessing)
            self.bind(*views, asks_teacher=getattr(module, "needs_teacher", True))
        _ = self.records  # report a missing folder before training

    def split(self, name: str) -> list[Record]:
        """Return the records of "train", "val" or "test"."""
        return [record for record in self.records if record.split == name]

    def check_batches(self) -> None:
        """Check that the training images fill a batch of every process."""
        images = len(self.split("train")) // process_rank()[1]
        if images < self.batch_size:
            raise ValueError(
                f"data: {count(images, 'training image')} for each process cannot fill one batch; "
                f"lower batch_size ({self.batch_size})"
            )

    def check_images(self) -> None:
        """Decode the first and the last image of every split, to detect a wrong folder or format early."""
        for name in SPLITS:
            if name == "train" and self.on_error == "skip":
                continue
            records = self.split(name)
            for record in dict.fromkeys([*records[:1], *records[-1:]]):
                read_image(record.image)

    def train_dataloader(self) -> DataLoader:
        """Return the loader of augmented training pairs, at the position where a resumed run continues."""
        alone = self._teacher_store is not None or not self._asks_teacher
        dataset = self._pairs("train", self.augmentation, self._teacher_store, student_only=alone)
        self.check_batches()
        sampler: EpochSampler | FixedSampler
        if self.overfits:
            sampler = FixedSampler(len(dataset))
        else:
            sampler = EpochSampler(len(dataset), self.seed)
            epoch, batch = resume_position(self.trainer)
            sampler.start_at(epoch, batch * self.batch_size)
        # All processes together see the same pairs at each step, however many they are.
        pairs = self.batch_size * sampler.num_replicas
        order = {"seed": self.seed, "batch_size x processes": pairs, "images": len(dataset)}
        if self.draws is not None:
            order["draws"] = self.draws
        return ResumableLoader(
            dataset,
            order=order,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            persistent_workers=self.num_workers > 0,
            collate_fn=dataset.builder.collate,
            **self._loader_options(),
        )

    @property
    def overfits(self) -> bool:
        """Whether the trainer uses `overfit_batches`: the same few pairs in every epoch."""
        trainer: Any = self.trainer
        return trainer is not None and bool(trainer.overfit_batches)

    def use_teacher_store(self, store: TeacherStore | None) -> None:
        """Train on the teacher embeddings of a store; None for a live teacher."""
        self._teacher_store = store

    def draw_loader(self, keys: list[tuple[int, int]]) -> DataLoader:
        """Return the loader of training pairs of some (draw, index) keys, in order, with the teacher's side."""
        return self._loader_of_keys(self._pairs("train", self.augmentation), keys)

    def val_dataloader(self) -> DataLoader:
        """Return the loader of unaugmented pairs of the validation patients, in a fixed order; see `FixedSampler`."""
        return self._fixed_pairs("val")

    def test_dataloader(self) -> DataLoader:
        """Return the loader of pairs of the test patients, otherwise as `val_dataloader`."""
        return self._fixed_pairs("test")

    def candidates(self, benchmark: str, split: str) -> list[Record]:
        """Return the images of a split, or "all", among which are those that a benchmark scores or excludes.

        Raises:
            ValueError: The corpus does not have the benchmark, or the split is unknown.
        """
        if benchmark not in self.benchmarks:
            raise ValueError(
                f"{type(self).__name__} has no benchmark {benchmark!r}; it has {list(self.benchmarks)}"
            )
        if split not in (*SPLITS, "all"):
            raise ValueError(f"split {split!r} is unknown; choose from {[*SPLITS, 'all']}")
        records = self.records  # reads those of own tables, too
        records = self._own_records.get(benchmark, records)
        return [record for record in records if split in ("all", record.split)]

    def evaluation_records(self, benchmark: str, split: str) -> list[Record]:
        """Return the images of a split ("all" includes training images, as the paper reports) that a benchmark scores.

        Raises:
            ValueError: See `candidates`; or the split has no image of the benchmark.
        """
        chosen = [r for r in self.candidates(benchmark, split) if BENCHMARKS[benchmark].includes(r)]
        if not chosen:
            raise ValueError(
                f"{type(self).__name__}: no image of benchmark {benchmark!r} in split {split!r}; "
                "give that split a share of the patients (val_share, test_share, or a column split)"
            )
        return chosen

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of every image of the test patients once, prepared for the student as in evaluation.

        They are distributed over the processes without padding.
        """
        dataset: Any = EvaluationDataset(self.split("test"), self._contracts()[0], *process_rank())
        reading = {**self._loader_options(), "num_workers": evaluation_workers(self.num_workers)}
        # The dataset holds this process's images: Lightning would distribute them again without this sampler.
        sampler: Any = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=False)
        reading |= {"batch_size": self.evaluation_batch_size, "collate_fn": collate_evaluation}
        return PlainErrorLoader(dataset, sampler=sampler, **reading)

    def _fixed_pairs(self, split: str) -> DataLoader:
        # Never replace unreadable images here: the loss would be over other images.
        dataset = self._pairs(split, None, on_error="raise")
        sampler = FixedSampler(len(dataset))
        if not len(sampler):
            # One empty batch: without any, Lightning skips the loop, and with it the evaluation of other images.
            # With a sampler: Lightning would set one for several processes, with a warning.
            empty: Any = [{}]
            once: Any = DistributedSampler(empty, num_replicas=1, rank=0)
            return DataLoader(empty, batch_size=None, sampler=once)
        return self._loader_of_keys(dataset, sampler)

    def _loader_of_keys(self, dataset: PairDataset, keys: Iterable[tuple[int, int]]) -> DataLoader:
        size, collate = self.evaluation_batch_size, dataset.builder.collate
        return PlainErrorLoader(
            dataset, sampler=keys, batch_size=size, collate_fn=collate, **self._loader_options()
        )

    def _pairs(
        self,
        split: str,
        augmentation: Augmentation | None,
        teacher_store: TeacherStore | None = None,
        student_only: bool = False,
        on_error: OnError | None = None,
    ) -> PairDataset:
        records, builder = self.split(split), PairBuilder(*self._contracts(), augmentation, student_only)
        side, settings = builder.working_side, dict[str, Any](masked=builder.masks_overlays)
        cache, pictures = open_cache(self.cache, records, side, settings), None
        if cache is not None and augmentation is not None and self.draws is not None:
            size = builder.views[0].image_size
            settings |= {"side": side, "augmentation": asdict(augmentation), "seed": self.seed}
            pictures = open_cache(self.cache, records, size, settings, self.draws)
        return PairDataset(
            records, builder, self.seed, on_error or self.on_error, cache, pictures, self.draws, teacher_store
        )

    def _contracts(self) -> tuple[Preprocessing, Preprocessing | None]:
        if self._views is None:
            raise RuntimeError("call bind(student, teacher) first: pairs depend on the models' contracts")
        return self._views

    def _loader_options(self) -> dict[str, Any]:
        # With its own generator the loader does not advance torch's global one.
        generator = torch.Generator().manual_seed(self.seed)
        return {"num_workers": self.num_workers, "pin_memory": self.pin_memory, "generator": generator}
