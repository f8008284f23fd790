"""All public corpora: the list of them, their folders on disk, and data modules that train or score on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.base import FetalDataModule
from datamodules.corpora.african_planes import AFRICAN_PLANES
from datamodules.corpora.corpus import Corpus, require_whole_patients, split_by_patient
from datamodules.corpora.fetal_planes import FETAL_PLANES
from datamodules.corpora.hc18 import HC18
from datamodules.record import Record
from metrics.benchmarks import benchmarks_of

CORPORA = {corpus.name: corpus for corpus in (HC18, FETAL_PLANES, AFRICAN_PLANES)}


def find_corpora(root: Path) -> dict[str, Path]:
    """Return the folder of each corpus at most two levels below `root`, recognised by its table.

    Raises:
        FileNotFoundError: `root` does not exist or has no known table.
        ValueError: A corpus occurs twice.
    """
    found: dict[str, Path] = {}
    for name, corpus in CORPORA.items():
        tables = [path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(depth + corpus.table))]
        if len(tables) > 1:
            raise ValueError(
                f"{root}: {corpus.title} is there twice: {tables[0]} and {tables[1]}; name one folder"
            )
        if tables:
            found[name] = tables[0].parent
    if not found:
        known = ", ".join(corpus.table for corpus in CORPORA.values())
        raise FileNotFoundError(f"{root}: no corpus here or two folders down; looked for {known}")
    return found


class PublicDataModule(FetalDataModule):
    """A public corpus with its official test set, or with one of its patients where it has none.

    Args:
        root: Folder with the corpus's table and images.
        val_share: Share of the patients for validation; null for the corpus's own (`Corpus.val_share`).
        test_share: Share for testing, next to the official test set; null for the corpus's own.
        split_seed: Seed of the split. It is separate from `seed`, so that runs with several seeds share their test
            patients and a teacher is never trained on the test patients of its student.
        **kwargs: For `FetalDataModule`.
    """

    corpus: Corpus

    def __init__(
        self,
        root: str,
        val_share: float | None = None,
        test_share: float | None = None,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.shares = {
            "val_share": self.corpus.val_share if val_share is None else val_share,
            "test_share": self.corpus.test_share if test_share is None else test_share,
        }
        self.split_seed = split_seed

    def read_records(self) -> list[Record]:
        """Read the table and split it by patient."""
        records = self.corpus.read(self.root)
        require_whole_patients(records)
        return split_by_patient(records, **self.shares, seed=self.split_seed)


class HC18DataModule(PublicDataModule):
    """HC18's training set, split by patient: the official test set has no published measurements."""

    corpus, benchmarks = HC18, benchmarks_of("hc18")


class FetalPlanesDataModule(PublicDataModule):
    """FETAL_PLANES_DB with its official test set; validation patients come from its training set."""

    corpus, benchmarks = FETAL_PLANES, benchmarks_of("planes")


class ScoredOnPublicSets(FetalDataModule):
    """Base of data modules that train on images of one's own and are scored on public sets.

    Args:
        planes_root: FETAL_PLANES_DB, for the benchmarks "planes" and "subplanes"; null leaves them out.
        hc18_root: HC18, for the benchmark "hc18"; null leaves it out.
        **kwargs: For `FetalDataModule`.
    """

    def __init__(self, planes_root: str | None = None, hc18_root: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        sets = ((FetalPlanesDataModule, planes_root), (HC18DataModule, hc18_root))
        self.public_sets = [module(root=root) for module, root in sets if root is not None]
        public = (name for module in self.public_sets for name in module.benchmarks)
        self.benchmarks = (*public, *self.benchmarks)

    def candidates(self, benchmark: str, split: str) -> list[Record]:
        """Return the images of a benchmark; those of a public set come from its own data module."""
        for module in self.public_sets:
            if benchmark in module.benchmarks:
                return module.candidates(benchmark, split)
        return super().candidates(benchmark, split)
