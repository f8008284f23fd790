"""Record of one image with its metadata."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np

from models.preprocessing import PIXEL_SIZE_MM

NUMBERING = ("study", "source", "frame")  # further columns of `data ingest` that tell images apart
TABLE = "table"  # `Record.corpus` of a user's own table
PLANES = ("brain", "abdomen", "heart", "femur", "cervix", "other")
PLANE_LABELS = {  # as FETAL_PLANES_DB calls them
    "fetal brain": "brain",
    "fetal abdomen": "abdomen",
    "fetal thorax": "heart",
    "fetal femur": "femur",
    "maternal cervix": "cervix",
    "other": "other",
}
# Number -> its least and largest value, and the unit that a value below or above is likely to have.
PLAUSIBLE = {
    "pixel_size_mm": (*PIXEL_SIZE_MM, "centimetres", "micrometres"),
    "hc_mm": (40.0, 450.0, "centimetres", "pixels"),
    "ga_days": (28.0, 315.0, "weeks", "hours"),
    "ga_weeks": (4.0, 45.0, "months", "days"),
}
BRAIN_PLANES = ("trans-thalamic", "trans-cerebellum", "trans-ventricular", "other")


@dataclass(frozen=True)
class Record:
    """One image and its metadata; None where unknown."""

    corpus: str  # name such as "hc18" or "planes"; determines its benchmarks
    name: str  # in messages and result tables, unique within the corpus
    image: Path
    patient: str  # all images of a patient are in the same split
    # Of the public sets one of `PLANES` ("heart" is FETAL_PLANES_DB's "Fetal thorax") and `BRAIN_PLANES` (brain images
    # only); a user's table may have others.
    plane: str | None = None
    brain_plane: str | None = None
    hc_mm: float | None = None  # head circumference
    pixel_size_mm: float | None = None  # side of a pixel of the original image
    ga_days: int | None = None  # gestational age
    caption: str | tuple[str, ...] | None = None  # of the image, or several; None: written from the metadata
    split: str | None = None  # "train", "val" or "test"; readers set it where there is an official split
    operator: str | None = None  # sonographer
    machine: str | None = None  # ultrasound machine
    others: dict[str, str] = field(default_factory=dict, hash=False)  # further columns of a user's table


def first_of_each_split(records: Sequence[Record], most: int) -> list[Record]:
    """Return at most `most` records of each split, in order, taken from each corpus and plane in turn."""
    groups: dict[str | None, dict[tuple[str | None, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, record in enumerate(records):
        groups[record.split][record.corpus, record.plane, record.brain_plane].append(index)
    kept: list[int] = []
    for split in groups.values():
        in_turn = (index for turn in zip_longest(*split.values()) for index in turn if index is not None)
        kept += list(in_turn)[:most]
    return [records[index] for index in sorted(kept)]


def further_groups(records: Sequence[Record]) -> dict[str, list[str | None]]:
    """Return the values of each further column of a user's table, for subgroups; those that number images are none."""
    columns = dict.fromkeys(name for record in records for name in record.others if name not in NUMBERING)
    return {name: [record.others.get(name) for record in records] for name in columns}


class PackedRecords(Sequence[Record]):
    """Records as one block of bytes, for data sets.

    Worker processes share its memory, where reading a list of objects would copy the list into each of them, because
    Python counts references within the objects.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        packed = [pickle.dumps(tuple(vars(record).values()), pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([0, *map(len, packed)])
        self._bytes = np.frombuffer(b"".join(packed), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        """Return one record."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        # Bytes of this process, never of a file.
        return Record(*pickle.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes()))  # nosec B301
