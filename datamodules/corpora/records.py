"""Records of a user's table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from datamodules.corpora.corpus import split_by_patient
from datamodules.record import BRAIN_PLANES, PLANE_LABELS, PLANES, TABLE, Record
from metrics.growth_chart import gestational_age_weeks

MOST_GROUPS = 20  # distinct values of a further column whose scores are reported by value
_PLANES = {**{plane: plane for plane in PLANES}, **PLANE_LABELS}
_BRAIN_PLANES = {plane: plane for plane in BRAIN_PLANES}


def table_records(table: pd.DataFrame, corpus: str = TABLE, keep: Iterable[str] = ()) -> list[Record]:
    """Return the records of a table (see `datamodules.corpora.table.read_table`), in its order.

    Args:
        table: The table.
        corpus: `Record.corpus`.
        keep: Columns that records keep as the table has them. Others are kept where they have few values.
    """
    own = {*Record.__dataclass_fields__}
    further = [
        name
        for name in table.columns
        if name in keep or (name not in own and 2 <= table[name].nunique() <= MOST_GROUPS)
    ]
    names = ["image", "caption", "patient", "split", "plane", "brain_plane", "operator", "machine"]
    numbers = ["hc_mm", "pixel_size_mm", "ga_days"]
    records = []
    columns = zip(table.index, *(table[name] for name in (*names, *numbers, *further)), strict=True)
    for name, image, captions, patient, split, plane, brain, operator, machine, *rest in columns:
        hc_mm, pixel_size_mm, ga_days = (None if math.isnan(value) else value for value in rest[:3])
        plane = (
            ("brain" if hc_mm or brain else None) if plane is None else _PLANES.get(plane.casefold(), plane)
        )
        records.append(
            Record(
                corpus=corpus,
                name=name,
                image=Path(image),
                patient=patient,
                plane=plane,
                brain_plane=brain and _BRAIN_PLANES.get(brain.casefold(), brain),
                hc_mm=hc_mm,
                pixel_size_mm=pixel_size_mm,
                ga_days=_age_of_head(hc_mm) if ga_days is None else round(ga_days),
                caption=captions or None,
                split=split,
                operator=operator,
                machine=machine,
                others={
                    key: value for key, value in zip(further, rest[3:], strict=True) if value is not None
                },
            )
        )
    return records


def _age_of_head(hc_mm: float | None) -> int | None:
    """Return the age at which the head circumference is the WHO chart's median, as in HC18's captions."""
    try:
        return None if hc_mm is None else round(7 * float(gestational_age_weeks(hc_mm)))
    except ValueError:  # beyond the chart
        return None


def with_splits(records: list[Record], val_share: float, test_share: float, seed: int) -> list[Record]:
    """Split by patient where the table does not; validation patients come out of a given training split without them.

    Raises:
        ValueError: A patient is in several splits, or only some rows have a split.
    """
    given = {record.split for record in records}
    if given == {None}:
        return split_by_patient(records, val_share=val_share, test_share=test_share, seed=seed)
    split_of: dict[str, Record] = {}
    for record in records:
        if record.split is None:
            raise ValueError(f"{record.name}: no split, which other rows of its table have")
        first = split_of.setdefault(record.patient, record)
        if first.split != record.split:
            raise ValueError(
                f"patient {record.patient} is in several splits: {first.name} in {first.split}, {record.name} in "
                f"{record.split}; give all images of a patient one split"
            )
    if "val" in given:
        return records
    return split_by_patient(records, val_share=val_share, test_share=0.0, seed=seed)
