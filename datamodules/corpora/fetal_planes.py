"""FETAL_PLANES_DB: common maternal-fetal ultrasound planes (Burgos-Artizzu et al. 2020)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.base import FetalDataModule
from datamodules.corpora.corpus import Corpus, split_by_patient
from datamodules.corpora.rows import Row
from datamodules.record import BRAIN_PLANES, PLANE_LABELS, Record
from metrics.benchmarks import benchmarks_of

FETAL_PLANES_TABLE = "FETAL_PLANES_DB_data.csv"
FETAL_PLANES_IMAGES = "Images"
_BRAIN_PLANES = {**{plane: plane for plane in BRAIN_PLANES}, "not a brain": None}
_SPLITS = {"1": "train", "0": "test"}


def _record(row: Row, image: Path) -> Record:
    plane = row.label("Plane", PLANE_LABELS)
    return Record(
        corpus="planes",
        name=row.values["Image_name"],
        image=image,
        patient=row.values["Patient_num"],
        plane=plane,
        brain_plane=row.label("Brain_plane", _BRAIN_PLANES) if plane == "brain" else None,
        split=row.label("Train", _SPLITS),
        operator=row.values["Operator"],
        machine=row.values["US_Machine"],
    )


FETAL_PLANES = Corpus(
    name="planes",
    title="FETAL_PLANES_DB",
    table=FETAL_PLANES_TABLE,
    columns=("Image_name", "Patient_num", "Plane", "Brain_plane", "Operator", "US_Machine", "Train"),
    images=FETAL_PLANES_IMAGES,
    remedy=f"expected {FETAL_PLANES_TABLE} beside a folder {FETAL_PLANES_IMAGES}/ of "
    "Patient00001_Plane1_1_of_1.png, ...; "
    "download the set from https://zenodo.org/records/3904280, and give its folder with PLANES_ROOT=folder",
    record=_record,
    source="https://doi.org/10.5281/zenodo.3904280",
    licence="CC BY 4.0",
    citation="Burgos-Artizzu et al., Scientific Reports 10, 2020, doi:10.1038/s41598-020-67076-5",
    published={
        "images": 12400, "patients": 1792, "plane other": 4213, "plane brain": 3092, "plane heart": 1718,
        "plane cervix": 1626, "plane femur": 1040, "plane abdomen": 711, "brain plane trans-thalamic": 1638,
        "brain plane trans-cerebellum": 714, "brain plane trans-ventricular": 597,
    },
    val_share=0.1,
)  # fmt: skip
read_fetal_planes = FETAL_PLANES.read


class FetalPlanesDataModule(FetalDataModule):
    """FETAL_PLANES_DB with its official test set; validation patients come from its training set.

    Args:
        root: Folder with ``FETAL_PLANES_DB_data.csv`` and ``Images/``.
        val_share: Share of the training patients for validation.
        split_seed: Seed of the choice of validation patients, separate from `seed`, which differs between runs that
            are compared.
        **kwargs: For `FetalDataModule`.
    """

    benchmarks = benchmarks_of("planes")

    def __init__(
        self, root: str, val_share: float = FETAL_PLANES.val_share, split_seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.val_share = val_share
        self.split_seed = split_seed

    def read_records(self) -> list[Record]:
        """Read the table and move the validation patients out of the official training set."""
        records = read_fetal_planes(self.root)
        return split_by_patient(records, val_share=self.val_share, test_share=0.0, seed=self.split_seed)
