"""The African fetal planes set: four planes from five countries (Sendra-Balcells et al. 2023)."""

from datamodules.corpora.corpus import Corpus
from datamodules.record import PLANE_LABELS

AFRICAN_PLANES = Corpus(
    name="african",
    title="Maternal fetal ultrasound planes from five African countries",
    table="African_planes_database.csv",
    columns={"image": "Filename", "patient": "Patient_num", "plane": "Plane", "country": "Center"},
    labels={"plane": PLANE_LABELS},
    # Numbers start again in every country, so a patient here is "Egypt 7".
    patient=lambda rows: rows["Center"] + " " + rows["Patient_num"],
    images=".",
    remedy="expected African_planes_database.csv beside the folders Algeria/, Egypt/, Ghana/, Malawi/, Uganda/; "
    "download the set from https://zenodo.org/records/7540448",
    source="https://doi.org/10.5281/zenodo.7540448",
    licence="CC BY 4.0",
    citation="Sendra-Balcells et al., Scientific Reports 13, 2023, doi:10.1038/s41598-023-29490-3",
    published={"images": 450, "patients": 125},
)
