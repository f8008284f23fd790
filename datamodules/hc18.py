"""HC18: fetal heads with pixel size and head circumference (van den Heuvel et al. 2018).

van den Heuvel et al., "Automated measurement of fetal head circumference using 2D ultrasound images",
PLoS ONE 13(8), 2018, doi:10.1371/journal.pone.0200412; data doi:10.5281/zenodo.1327317.
"""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.csv_table import read_table
from datamodules.image_files import find_images, find_table
from datamodules.record import Record

HC18_TABLE = "training_set_pixel_size_and_HC.csv"
HC18_IMAGES = "training_set"
_COLUMNS = ("filename", "pixel size(mm)", "head circumference (mm)")
_REMEDY = (
    f"expected {HC18_TABLE} beside a folder {HC18_IMAGES}/ of 001_HC.png, 010_2HC.png, ...; "
    "download both from https://hc18.grand-challenge.org (doi:10.5281/zenodo.1327317)"
)
# 010_HC.png, 010_2HC.png, ... 010_4HC.png are images of one patient.
_NAME = re.compile(r"(\d+)_\d*HC(\.\w+)?", re.IGNORECASE)


def read_hc18(root: str | Path) -> list[Record]:
    """Read the official training set of HC18, in the order of its table.

    Args:
        root: Folder that holds ``training_set_pixel_size_and_HC.csv`` and ``training_set/``.

    Returns:
        One record an image: plane "brain", `hc_mm`, `pixel_size_mm`, and the patient from the file name.

    Raises:
        FileNotFoundError: The folder, the table or images are missing (all missing images at once).
        ValueError: A row or a file name is malformed; the message names it.
    """
    root = Path(root)
    table = find_table(root, HC18_TABLE, "HC18", _REMEDY)
    rows = list(read_table(table, _COLUMNS))
    if not rows:
        raise ValueError(f"{table}: no rows")
    images = find_images(table.parent, (row.values["filename"] for row in rows), HC18_IMAGES, table)
    records, seen = [], set()
    for row in rows:
        name = row.values["filename"]
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{row.where}: file name {name!r} does not look like 010_HC.png or 010_2HC.png")
        if name in seen:
            raise ValueError(f"{row.where}: {name} appears twice")
        seen.add(name)
        records.append(
            Record(
                name=name,
                image=images[name],
                patient=match.group(1),
                plane="brain",
                hc_mm=row.number("head circumference (mm)"),
                pixel_size_mm=row.number("pixel size(mm)"),
            )
        )
    return records
