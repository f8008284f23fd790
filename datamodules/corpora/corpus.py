"""Description of a public corpus: where it comes from, what it should contain, and how to read and split it."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from datamodules.corpora.cells import Labels, canonical, separated
from datamodules.corpora.records import table_records
from datamodules.pairs.image_reading import IMAGE_SUFFIXES
from datamodules.record import Record
from models.messages import count, first_few, one_line

# Default shares of the patients of a user's own table.
VAL_SHARE, TEST_SHARE = 0.1, 0.2


@dataclass(frozen=True)
class Corpus:
    """A public data set."""

    name: str  # in commands and records
    title: str  # in its publication
    table: str  # file name of its table, by which a folder is recognised
    columns: Mapping[str, str]  # our column (see `table.COLUMNS`) -> the table's; all are required
    images: str  # folder of the images, beside the table
    remedy: str  # end of the message for a missing folder or table: what is expected, where to download it
    source: str
    licence: str
    citation: str
    published: dict[str, int]  # numbers of images, patients and labels, by the names of `counts`
    labels: Labels = field(default_factory=dict)  # of our columns
    patient: Callable[[pd.DataFrame], pd.Series] | None = None  # of the table's rows, where no column has it
    val_share: float = 0.0  # default share of the patients for validation
    test_share: float = 0.0  # and for testing, besides the official test set
    variable: str | None = None  # environment variable of its folder, where a preset reads it

    def read(self, root: str | Path, missing: list[str] | None = None) -> list[Record]:
        """Read all records, in the order of the table, with the official split where there is one.

        `missing` receives the names of images without a file, which are an error otherwise (one message for all). A
        malformed value, or a name that is empty or appears twice, is a ValueError that names the row.
        """
        path = self.find_table(Path(root))
        raw = separated(path)
        header = {name.casefold(): name for name in raw.columns}
        if absent := [name for name in self.columns.values() if name.casefold() not in header]:
            raise ValueError(f"{path}: columns {absent} are missing; the header is {list(raw.columns)}")
        raw = raw.rename(columns={header[name.casefold()]: name for name in self.columns.values()})
        table = canonical(raw, path, self.columns, self.labels)
        if table.empty:
            raise ValueError(f"{path}: no rows")
        names = table["image"]
        if (again := names.duplicated()).any():
            row = again.idxmax()
            raise ValueError(f"{path}, row {row}: {one_line(names[row], 80)} appears twice")
        if self.patient is not None:
            table["patient"] = self.patient(raw)
        for ours in ("patient", "hc_mm", "pixel_size_mm"):
            if ours in ("patient", *self.columns) and (empty := table[ours].isna()).any():
                row = empty.idxmax()
                fault = (
                    f"{self.columns[ours]} is empty" if ours in self.columns else "no patient is recognised"
                )
                raise ValueError(f"{path}, row {row}: {fault} ({one_line(names[row], 80)})")
        table["image"] = names.map(self._find_images(path, names.tolist(), missing))
        table.loc[table["plane"] != "brain", "brain_plane"] = None
        return table_records(table.set_index(names).dropna(subset="image"), self.name)

    def find_table(self, root: Path) -> Path:
        """Return the corpus's table in `root` or in a direct subfolder of it; an error ends with `remedy`."""
        if not root.is_dir():
            raise FileNotFoundError(f"{self.title}: folder {root} does not exist; {self.remedy}")
        for candidate in (root / self.table, *sorted(root.glob(f"*/{self.table}"))):
            if candidate.is_file():
                return candidate
        raise FileNotFoundError(f"{self.title}: {root} holds no {self.table}; {self.remedy}")

    def _find_images(self, table: Path, names: list[str], missing: list[str] | None) -> dict[str, Path]:
        """Map each name of the table, with or without an extension, to its image file.

        The folder `images` is searched, then its subfolders, or everything beside the table if it has none of them, for
        any image extension in any letter case. Other folders may hold other images of the same names: HC18's test set
        does. A name that fits several files is a ValueError.
        """
        root = table.parent
        found: dict[str, list[Path]] = {}
        folder = root / self.images
        for paths in (folder.glob, folder.rglob, root.rglob):
            if len(found) < len(names) and not (found and paths == root.rglob):
                index = defaultdict(list)
                for path in sorted(paths("*")):
                    if path.suffix.casefold() in IMAGE_SUFFIXES:
                        index[_stem(path.name)].append(path)
                found = {**{name: index[_stem(name)] for name in names if _stem(name) in index}, **found}
        absent = [name for name in names if name not in found]
        if missing is not None:
            missing += absent
        elif absent:
            few = first_few([one_line(name, 80) for name in absent])
            raise FileNotFoundError(
                f"{table}: {len(absent)} of {count(len(names), 'image')} missing under {root}: {few}; "
                f"to list all: make check-data DATA={self.name} ROOT={shlex.quote(str(root))} ARGS=--all"
            )
        for name, several in found.items():
            if len(several) > 1:
                files = [str(path) for path in several]
                raise ValueError(f"{table}: {one_line(name, 80)} fits several files, keep one of {files}")
        return {name: several[0] for name, several in found.items()}

    def assign_splits(self, records: list[Record]) -> list[Record]:
        """Split records as the corpus's data module does by default."""
        return split_by_patient(records, val_share=self.val_share, test_share=self.test_share, seed=0)


def _stem(name: str) -> str:
    path = Path(name)
    return (path.stem if path.suffix.casefold() in IMAGE_SUFFIXES else path.name).casefold()


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


def require_whole_patients(records: Iterable[Record]) -> None:
    """Raise a ValueError if a patient is in several of the splits that a table gives."""
    first_of: dict[str, Record] = {}
    for record in records:
        first = first_of.setdefault(record.patient, record)
        if first.split != record.split:
            raise ValueError(
                f"patient {record.patient} is in several splits: {first.name} in {first.split}, {record.name} in "
                f"{record.split}; give all images of a patient one split"
            )


def with_splits(
    records: list[Record], val_share: float = VAL_SHARE, test_share: float = TEST_SHARE, seed: int = 0
) -> list[Record]:
    """Split by patient where the table does not; validation patients come out of a given training split without them.

    Raises:
        ValueError: A patient is in several splits, or only some rows have a split.
    """
    given = {record.split for record in records}
    if given == {None}:
        return split_by_patient(records, val_share=val_share, test_share=test_share, seed=seed)
    for record in records:
        if record.split is None:
            raise ValueError(f"{record.name}: no split, which other rows of its table have")
    require_whole_patients(records)
    if "val" in given:
        return records
    return split_by_patient(records, val_share=val_share, test_share=0.0, seed=seed)
