"""LightningDataModule of a user's own table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules.base import FetalDataModule
from datamodules.corpora.fetal_planes import FetalPlanesDataModule
from datamodules.corpora.hc18 import HC18DataModule
from datamodules.corpora.records import table_records, with_splits
from datamodules.corpora.table import read_table
from datamodules.record import PLANES, Record


class TableDataModule(FetalDataModule):
    """Images and captions in a table, with whole patients in training, validation and test.

    Args:
        table: CSV, TSV, JSON Lines or Parquet file, or a folder with ``metadata.csv`` (see `read_table`).
        images: Folder that image paths are relative to; null for the table's.
        columns: Our name of a column (caption, image, patient, ...) -> the table's.
        outside: Whether images may lie outside of their folder, also through links.
        val_share: Share of the patients for validation, where the table has no such split.
        test_share: Share for the test, where the table has no splits.
        split_seed: Seed of the split; see `HC18DataModule`.
        planes_root: FETAL_PLANES_DB, for the benchmarks "planes" and "subplanes"; null leaves them out.
        hc18_root: HC18, for the benchmark "hc18"; null leaves it out.
        **kwargs: For `FetalDataModule`.
    """

    def __init__(
        self,
        table: str,
        images: str | None = None,
        columns: dict[str, str] | None = None,
        outside: bool = False,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
        planes_root: str | None = None,
        hc18_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.reading: Mapping[str, Any] = {"columns": columns, "images": images, "outside": outside}
        self.shares: dict[str, Any] = {"val_share": val_share, "test_share": test_share, "seed": split_seed}
        sets = ((FetalPlanesDataModule, planes_root), (HC18DataModule, hc18_root))
        self._public = [module(root=root) for module, root in sets if root is not None]
        self.benchmarks = (*(name for module in self._public for name in module.benchmarks), *self.benchmarks)

    def read_records(self) -> list[Record]:
        """Read the table, and the public sets for their benchmarks alone.

        Raises:
            ValueError: Rows have neither a caption nor a plane to write one from.
        """
        records = with_splits(
            table_records(read_table(self.table, **self.reading), keep=self.own_labels), **self.shares
        )
        silent = [r.name for r in records if not r.caption and r.plane not in PLANES]
        if silent and (self.on_error == "raise" or len(silent) == len(records)):
            raise ValueError(
                f"{self.table}: {len(silent)} of {len(records)} rows, {silent[0]} the first, have no caption (columns "
                "caption, captions, text, report or title, or --data.columns.caption=NAME) and no plane to write one "
                f"from ({', '.join(PLANES)})"
            )
        return records

    def evaluation_records(self, benchmark: str, split: str) -> list[Record]:
        """Return the images of a benchmark; those of a public set come from its own data module."""
        for module in self._public:
            if benchmark in module.benchmarks:
                return module.evaluation_records(benchmark, split)
        return super().evaluation_records(benchmark, split)
