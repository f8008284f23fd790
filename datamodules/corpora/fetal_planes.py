"""FETAL_PLANES_DB: common maternal-fetal ultrasound planes (Burgos-Artizzu et al. 2020)."""

from __future__ import annotations

from pathlib import Path

from datamodules.corpora.corpus import Corpus
from datamodules.corpora.rows import Row
from datamodules.record import BRAIN_PLANES, PLANE_LABELS, Record

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
