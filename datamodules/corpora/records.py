"""Records of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

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
    records = []
    for name, row in zip(table.index, table.to_dict("records"), strict=True):
        hc_mm, pixel_size_mm, ga_days = (
            None if math.isnan(row[key]) else row[key] for key in ("hc_mm", "pixel_size_mm", "ga_days")
        )
        plane, brain = row["plane"], row["brain_plane"]
        if plane is None:
            plane = "brain" if hc_mm or brain else None
        records.append(
            Record(
                corpus=corpus,
                name=name,
                image=Path(row["image"]),
                patient=row["patient"],
                plane=plane and _PLANES.get(plane.casefold(), plane),
                brain_plane=brain and _BRAIN_PLANES.get(brain.casefold(), brain),
                hc_mm=hc_mm,
                pixel_size_mm=pixel_size_mm,
                ga_days=_age_of_head(hc_mm) if ga_days is None else round(ga_days),
                caption=row["caption"] or None,
                split=row["split"],
                operator=row["operator"],
                machine=row["machine"],
                others={key: row[key] for key in further if row[key] is not None},
            )
        )
    return records


def _age_of_head(hc_mm: float | None) -> int | None:
    """Return the age at which the head circumference is the WHO chart's median, as in HC18's captions."""
    try:
        return None if hc_mm is None else round(7 * float(gestational_age_weeks(hc_mm)))
    except ValueError:  # beyond the chart
        return None
