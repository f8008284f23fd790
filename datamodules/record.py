"""Record of one image with its metadata."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

PLANES = ("brain", "abdomen", "heart", "femur", "cervix", "other")
BRAIN_PLANES = ("trans-thalamic", "trans-cerebellum", "trans-ventricular", "other")


@dataclass(frozen=True)
class Record:
    """One image and its metadata; None where unknown."""

    corpus: str  # name such as "hc18" or "planes"; determines its benchmarks
    name: str  # in messages and result tables, unique within the corpus
    image: Path
    patient: str  # all images of a patient are in the same split
    plane: str | None = None  # one of `PLANES` ("heart" is FETAL_PLANES_DB's "Fetal thorax")
    brain_plane: str | None = None  # one of `BRAIN_PLANES`, for brain images only
    hc_mm: float | None = None  # head circumference
    pixel_size_mm: float | None = None  # side of a pixel of the original image
    ga_days: int | None = None  # gestational age
    caption: str | None = None  # comes with the image; without it, captions are written from the metadata
    split: str | None = None  # "train", "val" or "test"; readers set it where there is an official split
    operator: str | None = None  # sonographer
    machine: str | None = None  # ultrasound machine


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
