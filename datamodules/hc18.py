"""HC18: fetal heads with pixel size and head circumference (van den Heuvel et al. 2018).

van den Heuvel et al., "Automated measurement of fetal head circumference using 2D ultrasound images",
PLoS ONE 13(8), 2018, doi:10.1371/journal.pone.0200412; data doi:10.5281/zenodo.1327317.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from datamodules.base import FetalDataModule
from datamodules.csv_table import Row, read_table
from datamodules.image_files import find_images, find_table
from datamodules.patient_split import split_by_patient
from datamodules.record import Record
from metrics.growth_chart import gestational_age_weeks

HC18_TABLE = "training_set_pixel_size_and_HC.csv"
HC18_IMAGES = "training_set"
_COLUMNS = ("filename", "pixel size(mm)", "head circumference (mm)")
_REMEDY = (
    f"expected {HC18_TABLE} beside a folder {HC18_IMAGES}/ of 001_HC.png, 010_2HC.png, ...; "
    "download both from https://hc18.grand-challenge.org (doi:10.5281/zenodo.1327317), and say where they "
    "are with HC18_ROOT=folder"
)
# 010_HC.png, 010_2HC.png, ... 010_4HC.png are images of one patient.
_NAME = re.compile(r"(\d+)_\d*HC(\.\w+)?", re.IGNORECASE)


def read_hc18(root: str | Path, missing: list[str] | None = None) -> list[Record]:
    """Read the official training set of HC18, in the order of its table.

    Args:
        root: Folder that holds ``training_set_pixel_size_and_HC.csv`` and ``training_set/``.
        missing: Takes the names of images without a file, which are an error otherwise.

    Returns:
        One record an image: plane "brain", `hc_mm`, `pixel_size_mm`, the patient from the file name, and
        as `ga_days` the age at which the head circumference is the WHO chart's median.

    Raises:
        FileNotFoundError: The folder, the table or images are missing (all missing images at once).
        ValueError: A row or a file name is malformed or empty; the message names the row.
    """
    root = Path(root)
    table = find_table(root, HC18_TABLE, "HC18", _REMEDY)
    rows = list(read_table(table, _COLUMNS))
    if not rows:
        raise ValueError(f"{table}: no rows")
    images = find_images(
        table.parent, (row.name("filename") for row in rows), HC18_IMAGES, table, "hc18", missing
    )
    records, seen = [], set()
    for row in rows:
        name = row.values["filename"]
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{row.where}: file name {name!r} does not look like 010_HC.png or 010_2HC.png")
        if name in seen:
            raise ValueError(f"{row.where}: {name} appears twice")
        seen.add(name)
        if name not in images:
            continue
        records.append(
            Record(
                corpus="hc18",
                name=name,
                image=images[name],
                patient=match.group(1),
                plane="brain",
                hc_mm=row.number("head circumference (mm)"),
                ga_days=_median_age_days(row),
                pixel_size_mm=row.number("pixel size(mm)"),
            )
        )
    return records


def _median_age_days(row: Row) -> int:
    try:
        return round(7 * float(gestational_age_weeks(row.number("head circumference (mm)"))))
    except ValueError as error:
        raise ValueError(f"{row.where}: {error}") from None


class HC18DataModule(FetalDataModule):
    """HC18's training set, split by patient into training, validation and test.

    The official test set has no published measurements, so the test patients come from the training set.

    Args:
        root: Folder that holds ``training_set_pixel_size_and_HC.csv`` and ``training_set/``.
        val_share: Share of the patients to validate on.
        test_share: Share of the patients to test on.
        split_seed: Another seed is another split. It is apart from `seed`, so that runs with several seeds
            share their test patients, and a teacher never meets its student's.
        **kwargs: For `FetalDataModule`.
    """

    benchmarks = ("hc18",)

    def __init__(
        self, root: str, val_share: float = 0.1, test_share: float = 0.2, split_seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.val_share = val_share
        self.test_share = test_share
        self.split_seed = split_seed

    def read_records(self) -> list[Record]:
        """Read the table and split it by patient."""
        return self.assign_splits(read_hc18(self.root))

    def assign_splits(self, records: list[Record]) -> list[Record]:
        """Put every patient on one side."""
        return split_by_patient(
            records, val_share=self.val_share, test_share=self.test_share, seed=self.split_seed
        )
