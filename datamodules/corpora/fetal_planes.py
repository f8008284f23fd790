"""FETAL_PLANES_DB: common maternal-fetal ultrasound planes (Burgos-Artizzu et al. 2020)."""

from datamodules.corpora.corpus import Corpus
from datamodules.record import BRAIN_PLANES, PLANE_LABELS

FETAL_PLANES_TABLE = "FETAL_PLANES_DB_data.csv"
FETAL_PLANES_IMAGES = "Images"
FETAL_PLANES = Corpus(
    name="planes",
    title="FETAL_PLANES_DB",
    table=FETAL_PLANES_TABLE,
    columns={
        "image": "Image_name", "patient": "Patient_num", "plane": "Plane", "brain_plane": "Brain_plane",
        "operator": "Operator", "machine": "US_Machine", "split": "Train",
    },
    labels={
        "plane": PLANE_LABELS,
        "brain_plane": {**{plane: plane for plane in BRAIN_PLANES}, "not a brain": None},
        "split": {"1": "train", "0": "test"},
    },
    images=FETAL_PLANES_IMAGES,
    remedy=f"expected {FETAL_PLANES_TABLE} beside a folder {FETAL_PLANES_IMAGES}/ of "
    "Patient00001_Plane1_1_of_1.png, ...; "
    "download the set from https://zenodo.org/records/3904280, and give its folder with PLANES_ROOT=folder",
    source="https://doi.org/10.5281/zenodo.3904280",
    licence="CC BY 4.0",
    citation="Burgos-Artizzu et al., Scientific Reports 10, 2020, doi:10.1038/s41598-020-67076-5",
    published={
        "images": 12400, "patients": 1792, "plane other": 4213, "plane brain": 3092, "plane heart": 1718,
        "plane cervix": 1626, "plane femur": 1040, "plane abdomen": 711, "brain plane trans-thalamic": 1638,
        "brain plane trans-cerebellum": 714, "brain plane trans-ventricular": 597,
    },
    val_share=0.1,
    variable="PLANES_ROOT",
)  # fmt: skip
read_fetal_planes = FETAL_PLANES.read
