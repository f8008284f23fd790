"""HC18: fetal heads with pixel size and head circumference (van den Heuvel et al. 2018)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from datamodules.base import FetalDataModule
from datamodules.corpora.corpus import Corpus, split_by_patient
from datamodules.corpora.rows import Row
from datamodules.record import Record
from metrics.benchmarks import benchmarks_of
from metrics.growth_chart import gestational_age_weeks

HC18_TABLE = "training_set_pixel_size_and_HC.csv"
HC18_IMAGES = "training_set"
# 010_HC.png, 010_2HC.png, ... 010_4HC.png are images of one patient.
_NAME = re.compile(r"(\d+)_\d*HC(\.\w+)?", re.IGNORECASE)


def _record(row: Row, image: Path) -> Record:
    """Build a record; `ga_days` is the age at which the head circumference is the WHO chart's median."""
    name, hc_mm = row.values["filename"], row.number("head circumference (mm)")
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{row.where}: file name {name!r} does not look like 010_HC.png or 010_2HC.png")
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


class HC18DataModule(FetalDataModule):
    """HC18's training set, split by patient into training, validation and test.

    The official test set has no published measurements, so the test patients come from the training set.

    Args:
        root: Folder with ``training_set_pixel_size_and_HC.csv`` and ``training_set/``.
        val_share: Share of the patients for validation.
        test_share: Share of the patients for testing.
        split_seed: Seed of the split. It is separate from `seed`, so that runs with several seeds share their test
            patients and a teacher is never trained on the test patients of its student.
        **kwargs: For `FetalDataModule`.
    """

    benchmarks = benchmarks_of("hc18")

    def __init__(
        self,
        root: str,
        val_share: float = HC18.val_share,
        test_share: float = HC18.test_share,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.val_share = val_share
        self.test_share = test_share
        self.split_seed = split_seed

    def read_records(self) -> list[Record]:
        """Read the table and split it by patient."""
        return split_by_patient(
            read_hc18(self.root), val_share=self.val_share, test_share=self.test_share, seed=self.split_seed
        )
