"""LightningDataModule of a user's own table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules.corpora.corpus import TEST_SHARE, VAL_SHARE, with_splits
from datamodules.corpora.fada import is_fada
from datamodules.corpora.public import ScoredOnPublicSets
from datamodules.corpora.records import table_records
from datamodules.corpora.table import read_table
from datamodules.record import PLANES, Record
from models.messages import count


class TableDataModule(ScoredOnPublicSets):
    """Images and captions in a table, with whole patients in training, validation and test.

    Args:
        table: CSV, TSV, Excel, JSON Lines or Parquet file, or a folder with ``metadata.csv`` (see `read_table`).
        images: Folder that image paths are relative to; null for the table's.
        columns: Our name of a column (caption, image, patient, ...) -> the table's.
        outside: Whether images may lie outside of their folder, also through links.
        val_share: Share of the patients for validation, where the table has no such split.
        test_share: Share for the test, where the table has no splits.
        split_seed: Seed of the split; see `PublicDataModule`.
        **kwargs: For `ScoredOnPublicSets`.
    """

    def __init__(
        self,
        table: str,
        images: str | None = None,
        columns: dict[str, str] | None = None,
        outside: bool = False,
        val_share: float = VAL_SHARE,
        test_share: float = TEST_SHARE,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.reading: Mapping[str, Any] = {"columns": columns, "images": images, "outside": outside}
        self.shares: dict[str, Any] = {"val_share": val_share, "test_share": test_share, "seed": split_seed}

    def read_records(self) -> list[Record]:
        """Read the table.

        Raises:
            ValueError: Rows have neither a caption nor a plane to write one from, or the table is FADA's.
        """
        labels = [one.label for one in self.own if one.table is None and one.prompts is not None]
        table = read_table(self.table, **self.reading)
        if is_fada(table):
            raise ValueError(
                f"{self.table}: FADA has images of the benchmarks; make shards leaves them out (docs/data.md), and "
                "DATA=shards trains on the rest"
            )
        records = with_splits(table_records(table, keep=labels), **self.shares)
        uncaptioned = [r for r in records if not r.caption and r.plane not in PLANES]
        # Only training images may be replaced by others.
        needed = [r for r in uncaptioned if self.on_error == "raise" or r.split != "train"]
        if needed or len(uncaptioned) == len(records):
            first = (needed or uncaptioned)[0]
            raise ValueError(
                f"{self.table}: {count(len(uncaptioned), 'row')} of {len(records)}, such as {first.name} "
                f"({first.split}), without caption (columns caption, captions, text, report or title, or "
                f"--data.columns.caption=NAME) and without a plane to write one from ({', '.join(PLANES)}); leave such "
                "rows out, as data ingest --labelled-only does"
            )
        return records
