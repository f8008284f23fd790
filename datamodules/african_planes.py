"""The African fetal planes set: four planes from five countries (Sendra-Balcells et al. 2023).

Sendra-Balcells et al., "Generalisability of fetal ultrasound deep learning models to low-resource imaging
settings in five African countries", Scientific Reports 13, 2023, doi:10.1038/s41598-023-29490-3;
data doi:10.5281/zenodo.7540448.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.csv_table import read_table
from datamodules.fetal_planes import PLANE_LABELS, label
from datamodules.image_files import find_images, find_table
from datamodules.record import Record

AFRICAN_PLANES_TABLE = "African_planes_database.csv"
_COLUMNS = ("Filename", "Patient_num", "Plane", "Center")
_REMEDY = (
    f"expected {AFRICAN_PLANES_TABLE} beside the folders Algeria/, Egypt/, Ghana/, Malawi/, Uganda/; "
    "download the set from https://zenodo.org/records/7540448"
)


def read_african_planes(root: str | Path, missing: list[str] | None = None) -> list[Record]:
    """Read the African planes, in the order of their table.

    Patient numbers begin anew in every country, so a patient here is "Egypt 7".

    Args:
        root: Folder that holds ``African_planes_database.csv`` and a folder a country.
        missing: Takes the names of images without a file, which are an error otherwise.

    Returns:
        One record an image, without a split: the set is no benchmark of this project.

    Raises:
        FileNotFoundError: The folder, the table or images are missing (all missing images at once).
        ValueError: A label is unknown, or a name is empty or appears twice; the message names the row.
    """
    root = Path(root)
    table = find_table(root, AFRICAN_PLANES_TABLE, "African planes", _REMEDY)
    rows = list(read_table(table, _COLUMNS))
    images = find_images(table.parent, (row.name("Filename") for row in rows), ".", table, "african", missing)
    records, seen = [], set()
    for row in rows:
        name, centre = row.values["Filename"], row.values["Center"]
        if name in seen:
            raise ValueError(f"{row.where}: {name} appears twice")
        seen.add(name)
        if name in images:
            records.append(
                Record(
                    corpus="african",
                    name=name,
                    image=images[name],
                    patient=f"{centre} {row.values['Patient_num']}",
                    plane=label(row, "Plane", PLANE_LABELS),
                )
            )
    return records
