"""Write the phantom corpus in the layouts of FETAL_PLANES_DB, HC18 and WebDataset pairs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import webdataset as wds

from datamodules.corpora.fetal_planes import FETAL_PLANES_IMAGES, FETAL_PLANES_TABLE
from datamodules.corpora.hc18 import HC18_IMAGES, HC18_TABLE
from datamodules.pairs.captions import caption_templates
from datamodules.phantom.patients import Picture
from datamodules.phantom.renderer import Truth
from datamodules.record import Record
from models.files import write_json

PLANES_FOLDER, HC18_FOLDER, PAIRS_FOLDER = "FETAL_PLANES_DB", "HC18", "pairs"
TRUTH_TABLE = "truth.csv"
PAIRS_PER_SHARD = 128  # small, so that there are at least as many shards as workers

# Names and numbers of the planes in FETAL_PLANES_DB.
_PLANE_WORDS = {
    "other": ("Other", 1), "abdomen": ("Fetal abdomen", 2), "brain": ("Fetal brain", 3),
    "cervix": ("Maternal cervix", 4), "femur": ("Fetal femur", 5), "heart": ("Fetal thorax", 6),
}  # fmt: skip
_IMAGE_FOLDERS = {
    "planes": (PLANES_FOLDER, FETAL_PLANES_IMAGES),
    "hc18": (HC18_FOLDER, HC18_IMAGES),
    "pairs": (PAIRS_FOLDER, "images"),
}


def picture_name(picture: Picture) -> str:
    """Return the name of a picture in its official layout, without ``.png``."""
    number = picture.patient.number
    if picture.corpus == "hc18":
        return f"{number:03d}_HC" if picture.number == 1 else f"{number:03d}_{picture.number}HC"
    if picture.corpus == "planes":
        return f"Patient{number:05d}_Plane{_PLANE_WORDS[picture.plane][1]}_{picture.number}_of_{picture.of}"
    return f"pair-{picture.index:06d}"


def image_path(root: Path, picture: Picture) -> Path:
    """Return the path of a picture under the corpus's folder."""
    return root.joinpath(*_IMAGE_FOLDERS[picture.corpus], f"{picture_name(picture)}.png")


def write_tables(root: Path, pictures: list[Picture], truths: list[Truth]) -> None:
    """Write the official tables, the shards and the table of the exact truth for the drawn pictures."""
    rows = list(zip(pictures, truths, strict=True))
    planes, heads, pairs = ([row for row in rows if row[0].corpus == name] for name in _IMAGE_FOLDERS)
    _write_csv(
        root / PLANES_FOLDER / FETAL_PLANES_TABLE, [_planes_row(picture) for picture, _ in planes], ";"
    )
    heads_rows = [
        {
            "filename": f"{picture_name(picture)}.png",
            "pixel size(mm)": f"{truth.pixel_size_mm:.12f}",
            "head circumference (mm)": f"{truth.hc_mm:.2f}",
        }
        for picture, truth in heads
    ]
    _write_csv(root / HC18_FOLDER / HC18_TABLE, heads_rows)
    if pairs:
        _write_shards(root, pairs)
    _write_csv(root / TRUTH_TABLE, [_truth_row(picture, truth) for picture, truth in rows])


def read_truth(root: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Read the exact truth of a corpus: (corpus, picture name) -> its row as texts, empty where unknown."""
    with (root / TRUTH_TABLE).open(newline="") as file:
        return {(row["corpus"], row["name"]): row for row in csv.DictReader(file)}


def _write_csv(path: Path, rows: list[dict[str, Any]], separator: str = ",") -> None:
    if rows:
        pd.DataFrame(rows).to_csv(path, sep=separator, index=False, lineterminator="\n")


def _planes_row(picture: Picture) -> dict[str, Any]:
    """Return a row of the official table, which pads the last column and its header with blanks."""
    machine = picture.patient.machine
    return {
        "Image_name": picture_name(picture),
        "Patient_num": picture.patient.number,
        "Plane": _PLANE_WORDS[picture.plane][0],
        "Brain_plane": picture.brain_plane.capitalize() if picture.brain_plane else "Not A Brain",
        "Operator": machine.operator,
        "US_Machine": machine.name,
        "Train ": f"{int(picture.patient.train)}               ",
    }


def _truth_row(picture: Picture, truth: Truth) -> dict[str, Any]:
    skull = truth.skull
    ellipse = (
        [""] * 5
        if skull is None
        else [f"{v:.4f}" for v in (skull.cx, skull.cy, skull.a, skull.b, skull.angle)]
    )
    names = ("skull_cx_px", "skull_cy_px", "skull_a_px", "skull_b_px", "skull_angle_rad")
    return {
        "corpus": picture.corpus,
        "name": picture_name(picture),
        "patient": picture.patient.number,
        "plane": picture.plane,
        "brain_plane": picture.brain_plane or "",
        "ga_days": truth.ga_days,
        "hc_mm": truth.hc_mm or "",
        "pixel_size_mm": f"{truth.pixel_size_mm:.6f}",
        **dict(zip(names, ellipse, strict=True)),
    }


def _write_shards(root: Path, rows: list[tuple[Picture, Truth]]) -> None:
    """Pack the pairs as ``pairs-000000.tar``: ``.png``, and ``.json`` with facts and all fitting captions."""
    folder = root / PAIRS_FOLDER
    shards: list[dict[str, Any]] = []
    for start in range(0, len(rows), PAIRS_PER_SHARD):
        name, some = f"pairs-{len(shards):06d}.tar", rows[start : start + PAIRS_PER_SHARD]
        shards.append({"name": name, "samples": len(some)})
        with wds.TarWriter(str(folder / name), encoder=False, mtime=0) as writer:
            for picture, truth in some:
                path = image_path(root, picture)
                facts: dict[str, Any] = {
                    "patient": str(picture.patient.number),
                    "plane": picture.plane,
                    "brain_plane": picture.brain_plane,
                    "hc_mm": truth.hc_mm,
                    "pixel_size_mm": truth.pixel_size_mm,
                    "ga_days": None if truth.hc_mm is None else truth.ga_days,
                }
                captions = caption_templates(Record("pairs", path.stem, path, **facts))
                text = json.dumps({**facts, "captions": captions})
                writer.write({"__key__": path.stem, "json": text.encode(), "png": path.read_bytes()})
                path.unlink()
    (folder / "images").rmdir()
    write_json(folder / "manifest.json", {"shards": shards})
