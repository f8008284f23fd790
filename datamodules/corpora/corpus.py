"""Description of a public corpus: where it comes from, what it should contain, and how to read and split it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.corpora.rows import Row, find_images, find_table, read_rows
from datamodules.record import Record
from models.messages import one_line


@dataclass(frozen=True)
class Corpus:
    """A public data set."""

    name: str  # in commands and records
    title: str  # in its publication
    table: str  # file name of its table, by which a folder is recognised
    columns: tuple[str, ...]  # required columns of the table; the first has the image names
    images: str  # folder of the images, beside the table
    remedy: str  # end of the message for a missing folder or table: what is expected, where to download it
    record: Callable[[Row, Path], Record]  # builds the record of a row, given its image file
    source: str
    licence: str
    citation: str
    published: dict[str, int]  # numbers of images, patients and labels, by the names of `counts`
    val_share: float = 0.0  # default share of the patients for validation
    test_share: float = 0.0  # and for testing, besides the official test set

    def read(self, root: str | Path, missing: list[str] | None = None) -> list[Record]:
        """Read all records, in the order of the table, with the official split where there is one.

        `missing` receives the names of images without a file, which are an error otherwise (one message for all). A
        malformed value, or a name that is empty or appears twice, is a ValueError that names the row.
        """
        table = find_table(Path(root), self.table, self.title, self.remedy)
        rows: dict[str, Row] = {}
        for row in read_rows(table, self.columns):
            name = row.text(self.columns[0])
            if name in rows:
                raise ValueError(f"{row.where}: {one_line(name, 80)} appears twice")
            rows[name] = row
        if not rows:
            raise ValueError(f"{table}: no rows")
        images = find_images(table, rows, self.images, self.name, missing)
        return [self.record(row, images[name]) for name, row in rows.items() if name in images]

    def assign_splits(self, records: list[Record]) -> list[Record]:
        """Split records as the corpus's data module does by default."""
        return split_by_patient(records, val_share=self.val_share, test_share=self.test_share, seed=0)


def counts(records: list[Record]) -> dict[str, int]:
    """Count images, patients, planes and brain planes."""
    planes = [f"plane {record.plane}" for record in records if record.plane]
    planes += [f"brain plane {record.brain_plane}" for record in records if record.brain_plane]
    patients = {record.patient for record in records}
    return {"images": len(records), "patients": len(patients), **Counter(planes)}


def split_by_patient(
    records: Iterable[Record], *, val_share: float, test_share: float, seed: int
) -> list[Record]:
    """Assign whole patients to "train", "val" and "test" by a hash of the patient.

    Records of the corpus's own test set stay in it. A patient's split does not depend on which other patients are
    present, so adding images never moves one.

    Raises:
        ValueError: The shares are negative or leave nothing for training.
    """
    if min(val_share, test_share) < 0 or val_share + test_share >= 1:
        raise ValueError(
            f"val_share {val_share} and test_share {test_share}: both at least 0, together below 1"
        )

    def side(record: Record) -> str:
        if record.split == "test":
            return "test"
        key = f"{seed}/{record.corpus}/{record.patient}"
        draw = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
        if draw < val_share:
            return "val"
        return "test" if draw < val_share + test_share else "train"

    return [replace(record, split=side(record)) for record in records]
