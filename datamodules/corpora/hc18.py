"""HC18: fetal heads with pixel size and head circumference (van den Heuvel et al. 2018)."""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.corpora.corpus import Corpus
from datamodules.corpora.rows import Row
from datamodules.record import Record
from metrics.growth_chart import gestational_age_weeks
from models.messages import one_line

HC18_TABLE = "training_set_pixel_size_and_HC.csv"
HC18_IMAGES = "training_set"
# 010_HC.png, 010_2HC.png, ... 010_4HC.png are images of one patient.
_NAME = re.compile(r"(\d+)_\d*HC(\.\w+)?", re.IGNORECASE)


def _record(row: Row, image: Path) -> Record:
    """Build a record; `ga_days` is the age at which the head circumference is the WHO chart's median."""
    name, hc_mm = row.values["filename"], row.number("head circumference (mm)")
    match = _NAME.fullmatch(name)
    if match is None:
        shown = one_line(repr(name), 80)
        raise ValueError(f"{row.where}: file name {shown} does not look like 010_HC.png or 010_2HC.png")
    try:
        ga_days = round(7 * float(gestational_age_weeks(hc_mm)))
    except ValueError as error:
        raise ValueError(f"{row.where}: {error}") from None
    return Record(
        corpus="hc18",
        name=name,
        image=image,
        patient=match.group(1),
        plane="brain",
        hc_mm=hc_mm,
        ga_days=ga_days,
        pixel_size_mm=row.number("pixel size(mm)"),
    )


HC18 = Corpus(
    name="hc18",
    title="HC18",
    table=HC18_TABLE,
    columns=("filename", "pixel size(mm)", "head circumference (mm)"),
    images=HC18_IMAGES,
    remedy=f"expected {HC18_TABLE} beside a folder {HC18_IMAGES}/ of 001_HC.png, 010_2HC.png, ...; "
    "download both from https://hc18.grand-challenge.org (doi:10.5281/zenodo.1327317), and give their folder "
    "with HC18_ROOT=folder",
    record=_record,
    source="https://doi.org/10.5281/zenodo.1327317",
    licence="CC BY 4.0",
    citation="van den Heuvel et al., PLoS ONE 13(8), 2018, doi:10.1371/journal.pone.0200412",
    published={"images": 999, "patients": 806, "plane brain": 999},
    val_share=0.1,
    test_share=0.2,
)
read_hc18 = HC18.read
