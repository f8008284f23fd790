"""A user's own benchmarks: a table of labelled images, and prompts for its classes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datamodules.corpora.cells import MISSING_TEXTS
from datamodules.corpora.corpus import split_by_patient, with_splits
from datamodules.corpora.records import table_records
from datamodules.corpora.table import corpus_name, read_table
from datamodules.evaluation.protocol import read_prompts
from datamodules.record import TABLE, Record
from metrics.benchmarks import Benchmark, register

# Columns that the prompt file has classes for.
PROMPTED = {"plane": "planes", "brain_plane": "subplanes"}
# Names that stand for something else in exports, on the demo page or in tables of predictions.
TAKEN = {
    "ages", "ages_basis", "brain_plane", "embedding", "error", "fp16", "fp32", "frame", "ga", "ga_coverage", "ga_days",
    "ga_high_days", "ga_low_days", "ga_spacing_mm", "gray", "image", "input", "int8", "latency_ms", "own", "palette6",
    "palette8", "pixel_size_mm", "plane", "resize", "seconds", "text", "time",
}  # fmt: skip


@dataclass(frozen=True)
class OwnBenchmark:
    """Settings of a benchmark of one's own.

    Attributes:
        name: In results: ``student/NAME/f1``.
        kind: "classification" (of the images into the classes of `prompts`), or "biometry" (gestational age of heads;
            the table needs hc_mm and pixel_size_mm).
        table: Table of its images (see `datamodules.corpora.table.read_table`); null: validation and test patients of
            the training table (DATA=table).
        label: Column of the classes.
        prompts: JSON file of class -> sentences; null takes the protocol's, for the columns plane and brain_plane.
        weight: Weight among the benchmarks of its kind in the score that selects checkpoints.
        exclude: Labels that are not scored.
        images: Folder that the table's paths are relative to; null for the table's.
        columns: Our name of a column -> the table's.
        outside: Whether images may lie outside of their folder.
        val_share: Share of the patients that select checkpoints, where the table has no splits; the others test.
    """

    name: str
    kind: Literal["classification", "biometry"] = "classification"
    table: str | None = None
    label: str = "plane"
    prompts: str | None = None
    weight: float = 1.0
    exclude: tuple[str, ...] = ()
    images: str | None = None
    columns: dict[str, str] | None = None
    outside: bool = False
    val_share: float = 0.3

    def __post_init__(self) -> None:
        place = f"data.benchmarks, {self.name}"
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name):
            raise ValueError(f"{place}: a name has letters, digits and _ only, and begins with a letter")
        if self.name in TAKEN or self.name.startswith(("plane_", "brain_plane_")):
            raise ValueError(
                f"{place}: the name stands for something else in exports and predictions; choose another"
            )
        if self.kind == "classification" and self.prompts is None and self.label not in PROMPTED:
            raise ValueError(f"{place}: label={self.label} needs prompts=FILE (JSON of class -> sentences)")
        if self.kind == "biometry" and self.prompts is not None:
            raise ValueError(
                f"{place}: prompts of ages are the protocol's (PROTOCOL=file), not prompts={self.prompts}"
            )
        for name in self.exclude:
            _check_class(name, f"{place}: exclude")
        if not 0 < self.val_share < 1 or self.weight <= 0:
            raise ValueError(f"{place}: val_share is between 0 and 1 and weight above 0")

    def register(self) -> str:
        """Add the benchmark to `metrics.benchmarks.BENCHMARKS`, and return its name.

        Raises:
            ValueError: The name is taken, or the prompts are malformed.
            FileNotFoundError: There is no such prompt file.
        """
        biometry = self.kind == "biometry"
        classes = {} if self.prompts is None else read_prompts(self.prompts)
        for name in classes:
            _check_class(name, str(self.prompts))
        register(
            Benchmark(
                name=self.name,
                title=f"{self.name} validity, %" if biometry else f"{self.name} F1",
                subject=self.name,
                kind=self.kind,
                corpus=self.name if self.table is not None else TABLE,
                label="hc_mm" if biometry else self.label,
                prompts="biometry" if biometry else PROMPTED.get(self.label, self.label),
                headline="validity" if biometry else "f1",
                weight=self.weight,
                # As in the built-in benchmarks, "other" has no prompts in the protocol.
                exclude=self.exclude or (("other",) if self.prompts is None else ()),
                scale=100 if biometry else 1,
                classes=classes,
                own=True,
            )
        )
        return self.name

    def read(self, training: Sequence[Record], trained: Mapping[str, bool] | None = None) -> list[Record]:
        """Return the images of the benchmark's own table, with splits.

        Patients and images of the training data keep their split there: none is trained on and scored. Patients are
        compared with those of a user's table only; public sets number theirs independently.

        Args:
            training: Images of the training data.
            trained: Names of tables that the training data were written from -> whether their validation and test
                patients were left out (see `corpus_name`). The benchmark keeps to the same split of such a table.

        Raises:
            ValueError: The table has no such column, an image has no measure, or every patient was trained on.
        """
        table = read_table(str(self.table), self.columns, self.images, self.outside)
        needed = ("hc_mm", "pixel_size_mm") if self.kind == "biometry" else (self.label,)
        for column in needed:
            if column not in table or table[column].isna().all():
                raise ValueError(f"{self.table}: no column {column}, which benchmark {self.name} needs")
        records = table_records(table, self.name, keep=needed if self.prompts else ())
        if (written := (trained or {}).get(corpus_name(Path(str(self.table))))) is not None:
            if not written:
                raise ValueError(
                    f"{self.table}: the training shards hold all patients of a table of this name; write them without "
                    "--no-exclude-test, or rename this table if it is another"
                )
            splits = {record.name: record.split for record in with_splits(table_records(table))}
            records = [replace(record, split=splits[record.name]) for record in records]
        elif all(record.split is None for record in records):
            records = split_by_patient(records, val_share=self.val_share, test_share=0.0, seed=0)
            records = [replace(r, split="test" if r.split == "train" else r.split) for r in records]
        # By the real path, as `read_table` names images.
        known = {os.path.realpath(record.image): record.split for record in training}
        # An image that stands for its unknown patient says nothing about an image of that name elsewhere.
        known |= {r.patient: r.split for r in training if r.corpus == TABLE and r.patient != r.name}
        return [replace(r, split=known.get(str(r.image)) or known.get(r.patient) or r.split) for r in records]


def _check_class(name: str, place: str) -> None:
    if name.casefold() in MISSING_TEXTS:
        raise ValueError(
            f"{place}: {name!r} cannot be a class: in a table it means an empty cell; rename it here and there"
        )
