"""LightningDataModule of the default corpus: simulated images in the official layouts, read like the real sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.base import FetalDataModule
from datamodules.corpora.public import FetalPlanesDataModule, HC18DataModule
from datamodules.phantom.corpus import (
    DEFAULT_ROOT,
    HC18_FOLDER,
    PLANES_FOLDER,
    PhantomSettings,
    make_corpus,
    read_truth,
)
from datamodules.record import Record
from metrics import gestational_age_weeks
from metrics.benchmarks import benchmarks_of

# Pictures drawn for each of `most_images`: few enough to be drawn in this process, and enough that the validation
# split, with a tenth of the patients, has images of every benchmark.
PLANES_FOR_ONE, HEADS_FOR_ONE = 6, 2
VAL_SHARE, HC18_TEST_SHARE = 0.1, 0.3


class PhantomDataModule(FetalDataModule):
    """Train and evaluate on the phantom: simulated planes and heads together.

    The corpus is made on first use and then reused; see `docs/phantom.md`. Both parts use the readers and splits of
    `FetalPlanesDataModule` and `HC18DataModule`.

    Args:
        root: Folder of all phantom corpora, one subfolder per hash of the settings.
        corpus: Numbers of pictures, their seed and so on; with `most_images` only as many pictures as that needs.
        workers: Processes that make the corpus; null takes all cores. The pictures do not depend on it.
        val_share: Share of the patients for validation, in both parts.
        hc18_test_share: Share of the HC18-type patients for testing; the planes have an official flag.
        split_seed: Seed of the choice of validation (and HC18-type test) patients.
        **kwargs: For `FetalDataModule`.
    """

    benchmarks = benchmarks_of("planes", "hc18")
    simulated = True

    def __init__(
        self,
        root: str = str(DEFAULT_ROOT),
        corpus: PhantomSettings = PhantomSettings(),  # noqa: B008 - frozen
        workers: int | None = None,
        val_share: float = VAL_SHARE,
        hc18_test_share: float = HC18_TEST_SHARE,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not (corpus.num_planes_images and corpus.num_hc18_images):
            raise ValueError("phantom: training needs num_planes_images and num_hc18_images above 0")
        self.root = root
        most = self.most_images
        if most is not None:
            corpus = corpus.at_most(PLANES_FOR_ONE * most, HEADS_FOR_ONE * most)
            val_share, hc18_test_share = max(val_share, VAL_SHARE), max(hc18_test_share, HC18_TEST_SHARE)
        self.corpus = corpus
        self.workers = workers
        self.val_share = val_share
        self.hc18_test_share = hc18_test_share
        self.split_seed = split_seed

    def prepare_data(self) -> None:
        """Make the corpus if it is missing."""
        make_corpus(self.corpus, self.root, self.workers)

    def read_records(self) -> list[Record]:
        """Return the records of the planes and then of the heads; the corpus is made first if it is missing."""
        folder = make_corpus(self.corpus, self.root, self.workers)
        planes = FetalPlanesDataModule(
            str(folder / PLANES_FOLDER), self.val_share, split_seed=self.split_seed
        )
        hc18 = HC18DataModule(
            str(folder / HC18_FOLDER), self.val_share, self.hc18_test_share, self.split_seed
        )
        records, heads = planes.read_records(), hc18.read_records()
        own = self.corpus.num_hc18_images
        # HC18's table has no column for the further test patients, who are its last.
        records += [*heads[:own], *(replace(record, split="test") for record in heads[own:])]
        truth = read_truth(folder)
        return [_with_report(record, truth[record.corpus, Path(record.name).stem]) for record in records]


def _with_report(record: Record, truth: dict[str, str]) -> Record:
    """Add the facts of a clinical report to a brain picture: sub-plane, head size, age, pixel size.

    Each official table has half of them. Captions use all of them, as captions from a hospital's archive would;
    benchmarks still score the labels of their official table.
    """
    if record.plane != "brain":
        return record
    hc_mm = float(truth["hc_mm"])
    return replace(
        record,
        brain_plane=record.brain_plane or truth["brain_plane"] or None,
        hc_mm=hc_mm,
        pixel_size_mm=float(truth["pixel_size_mm"]),
        ga_days=round(float(gestational_age_weeks(hc_mm)) * 7),
    )
