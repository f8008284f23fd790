"""FETAL_PLANES_DB: common maternal-fetal ultrasound planes (Burgos-Artizzu et al. 2020).

Burgos-Artizzu et al., "Evaluation of deep convolutional neural networks for automatic classification of
common maternal fetal ultrasound planes", Scientific Reports 10, 2020, doi:10.1038/s41598-020-67076-5;
data doi:10.5281/zenodo.3904280.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.base import FetalDataModule
from datamodules.csv_table import Row, read_table
from datamodules.image_files import find_images, find_table
from datamodules.patient_split import split_by_patient
from datamodules.record import Record

FETAL_PLANES_TABLE = "FETAL_PLANES_DB_data.csv"
FETAL_PLANES_IMAGES = "Images"
_COLUMNS = ("Image_name", "Patient_num", "Plane", "Brain_plane", "Operator", "US_Machine", "Train")
_REMEDY = (
    f"expected {FETAL_PLANES_TABLE} beside a folder {FETAL_PLANES_IMAGES}/ of "
    "Patient00001_Plane1_1_of_1.png, ...; "
    "download the set from https://zenodo.org/records/3904280, and say where it is with PLANES_ROOT=folder"
)
PLANE_LABELS: dict[str, str | None] = {
    "fetal brain": "brain",
    "fetal abdomen": "abdomen",
    "fetal thorax": "heart",
    "fetal femur": "femur",
    "maternal cervix": "cervix",
    "other": "other",
}
_BRAIN_PLANES: dict[str, str | None] = {
    "trans-thalamic": "trans-thalamic",
    "trans-cerebellum": "trans-cerebellum",
    "trans-ventricular": "trans-ventricular",
    "other": "other",
    "not a brain": None,
}
_SPLITS: dict[str, str | None] = {"1": "train", "0": "test"}


def read_fetal_planes(root: str | Path, missing: list[str] | None = None) -> list[Record]:
    """Read FETAL_PLANES_DB, in the order of its table.

    Args:
        root: Folder that holds ``FETAL_PLANES_DB_data.csv`` and ``Images/``.
        missing: Takes the names of images without a file, which are an error otherwise.

    Returns:
        One record an image, `split` being the official one.

    Raises:
        FileNotFoundError: The folder, the table or images are missing (all missing images at once).
        ValueError: A label is unknown, or a name is empty or appears twice; the message names the row.
    """
    root = Path(root)
    table = find_table(root, FETAL_PLANES_TABLE, "FETAL_PLANES_DB", _REMEDY)
    rows = list(read_table(table, _COLUMNS))
    if not rows:
        raise ValueError(f"{table}: no rows")
    images = find_images(
        table.parent, (row.name("Image_name") for row in rows), FETAL_PLANES_IMAGES, table, "planes", missing
    )
    records, seen = [], set()
    for row in rows:
        name = row.values["Image_name"]
        if name in seen:
            raise ValueError(f"{row.where}: {name} appears twice")
        seen.add(name)
        if name not in images:
            continue
        plane = label(row, "Plane", PLANE_LABELS)
        records.append(
            Record(
                corpus="planes",
                name=name,
                image=images[name],
                patient=row.values["Patient_num"],
                plane=plane,
                brain_plane=label(row, "Brain_plane", _BRAIN_PLANES) if plane == "brain" else None,
                split=label(row, "Train", _SPLITS),
                operator=row.values["Operator"],
                machine=row.values["US_Machine"],
            )
        )
    return records


def label(row: Row, column: str, known: dict[str, str | None]) -> str | None:
    """Translate a label of a table, whatever its letter case.

    Raises:
        ValueError: The label is unknown; the message names the row and lists the known ones.
    """
    value = row.values[column]
    if value.casefold() not in known:
        raise ValueError(f"{row.where}: {column} is {value!r}, expected one of {list(known)}")
    return known[value.casefold()]


class FetalPlanesDataModule(FetalDataModule):
    """FETAL_PLANES_DB with its official test set; validation patients come out of its training set.

    Args:
        root: Folder that holds ``FETAL_PLANES_DB_data.csv`` and ``Images/``.
        val_share: Share of the training patients to validate on.
        split_seed: Another seed chooses other validation patients; apart from `seed`, which differs between
            runs that shall be compared.
        **kwargs: For `FetalDataModule`.
    """

    benchmarks = ("planes", "subplanes")

    def __init__(self, root: str, val_share: float = 0.1, split_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.val_share = val_share
        self.split_seed = split_seed

    def read_records(self) -> list[Record]:
        """Read the table and set the validation patients aside."""
        return self.assign_splits(read_fetal_planes(self.root))

    def assign_splits(self, records: list[Record]) -> list[Record]:
        """Move validation patients out of the official training set."""
        return split_by_patient(records, val_share=self.val_share, test_share=0.0, seed=self.split_seed)
