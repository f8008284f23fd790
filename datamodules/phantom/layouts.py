"""Write the corpus as its real models are laid out: FETAL_PLANES_DB, HC18, WebDataset pairs."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

from datamodules.captions import caption_templates
from datamodules.fetal_planes import FETAL_PLANES_IMAGES, FETAL_PLANES_TABLE
from datamodules.hc18 import HC18_IMAGES, HC18_TABLE
from datamodules.phantom.patients import Picture
from datamodules.phantom.renderer import Truth
from datamodules.record import Record

PLANES_FOLDER, HC18_FOLDER, PAIRS_FOLDER = "FETAL_PLANES_DB", "HC18", "pairs"
TRUTH_TABLE = "truth.csv"
PAIRS_PER_SHARD = 128  # at least as many shards as reading processes
PAIR_FACTS = ("patient", "plane", "brain_plane", "hc_mm", "pixel_size_mm", "ga_days")
TRUTH_COLUMNS = (
    "corpus", "name", "patient", "plane", "brain_plane", "ga_days", "hc_mm", "pixel_size_mm",
    "skull_cx_px", "skull_cy_px", "skull_a_px", "skull_b_px", "skull_angle_rad",
)  # fmt: skip

# FETAL_PLANES_DB's own words and numbers for the planes.
_PLANE_WORDS = {
    "other": ("Other", 1), "abdomen": ("Fetal abdomen", 2), "brain": ("Fetal brain", 3),
    "cervix": ("Maternal cervix", 4), "femur": ("Fetal femur", 5), "heart": ("Fetal thorax", 6),
}  # fmt: skip
_BRAIN_PLANE_WORDS = {
    None: "Not A Brain", "other": "Other", "trans-thalamic": "Trans-thalamic",
    "trans-cerebellum": "Trans-cerebellum", "trans-ventricular": "Trans-ventricular",
}  # fmt: skip


def picture_name(picture: Picture) -> str:
    """Return the name of a picture in its official layout, without ``.png``."""
    number = picture.patient.number
    if picture.corpus == "hc18":
        return f"{number:03d}_HC" if picture.number == 1 else f"{number:03d}_{picture.number}HC"
    if picture.corpus == "planes":
        return f"Patient{number:05d}_Plane{_PLANE_WORDS[picture.plane][1]}_{picture.number}_of_{picture.of}"
    return f"pair-{picture.index:06d}"


def image_path(root: Path, picture: Picture) -> Path:
    """Return where a picture lies under the corpus's folder."""
    folders = {
        "planes": (PLANES_FOLDER, FETAL_PLANES_IMAGES),
        "hc18": (HC18_FOLDER, HC18_IMAGES),
        "pairs": (PAIRS_FOLDER, "images"),
    }
    return root.joinpath(*folders[picture.corpus], f"{picture_name(picture)}.png")


def write_tables(root: Path, pictures: list[Picture], truths: list[Truth]) -> None:
    """Write the official tables, the shards and the table of the exact truth beside the drawn pictures."""
    rows = list(zip(pictures, truths, strict=True))
    planes = [(p, t) for p, t in rows if p.corpus == "planes"]
    heads = [(p, t) for p, t in rows if p.corpus == "hc18"]
    pairs = [(p, t) for p, t in rows if p.corpus == "pairs"]
    if planes:
        _write_planes(root / PLANES_FOLDER / FETAL_PLANES_TABLE, [p for p, _ in planes])
    if heads:
        _write_hc18(root / HC18_FOLDER / HC18_TABLE, heads)
    if pairs:
        _write_shards(root, pairs)
    _write_truth(root / TRUTH_TABLE, rows)


def _write_planes(path: Path, pictures: list[Picture]) -> None:
    """Write the official table: semicolons, ``Train `` with its blank, values padded with blanks."""
    with path.open("w", newline="") as file:
        file.write("Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train \n")
        for picture in pictures:
            machine = picture.patient.machine
            cells = (
                picture_name(picture), str(picture.patient.number), _PLANE_WORDS[picture.plane][0],
                _BRAIN_PLANE_WORDS[picture.brain_plane], machine.operator, machine.name,
                f"{int(picture.patient.train)}               ",
            )  # fmt: skip
            file.write(";".join(cells) + "\n")


def _write_hc18(path: Path, rows: list[tuple[Picture, Truth]]) -> None:
    with path.open("w", newline="") as file:
        file.write("filename,pixel size(mm),head circumference (mm)\n")
        for picture, truth in rows:
            file.write(f"{picture_name(picture)}.png,{truth.pixel_size_mm:.12f},{truth.hc_mm:.2f}\n")


def _record(path: Path, picture: Picture, truth: Truth) -> Record:
    return Record(
        corpus="pairs", name=picture_name(picture), image=path,
        patient=str(picture.patient.number), plane=picture.plane,
        brain_plane=picture.brain_plane, hc_mm=truth.hc_mm, pixel_size_mm=truth.pixel_size_mm,
        ga_days=truth.ga_days if truth.hc_mm is not None else None,
    )  # fmt: skip


def _write_shards(root: Path, rows: list[tuple[Picture, Truth]]) -> None:
    """Pack the pairs as ``pairs-000000.tar``: ``.png``, and ``.json`` with facts and all fitting captions."""
    folder = root / PAIRS_FOLDER
    manifest = []
    for shard, start in enumerate(range(0, len(rows), PAIRS_PER_SHARD)):
        name, some = f"pairs-{shard:06d}.tar", rows[start : start + PAIRS_PER_SHARD]
        manifest.append({"name": name, "samples": len(some)})
        with tarfile.open(folder / name, "w") as tar:
            for picture, truth in some:
                path = image_path(root, picture)
                record = _record(path, picture, truth)
                facts = {key: getattr(record, key) for key in PAIR_FACTS}
                facts["captions"] = list(caption_templates(record))
                members = {"json": json.dumps(facts).encode(), "png": path.read_bytes()}
                for suffix, content in members.items():
                    member = tarfile.TarInfo(f"{record.name}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                path.unlink()
    (folder / "images").rmdir()
    (folder / "manifest.json").write_text(json.dumps({"shards": manifest}, indent=2) + "\n")


def _write_truth(path: Path, rows: list[tuple[Picture, Truth]]) -> None:
    """Write what each picture shows exactly: the answer sheet that real corpora lack."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TRUTH_COLUMNS)
        for picture, truth in rows:
            s = truth.skull
            skull = [f"{v:.4f}" for v in (s.cx, s.cy, s.a, s.b, s.angle)] if s is not None else [""] * 5
            shown = (picture.corpus, picture_name(picture), picture.patient.number, picture.plane)
            sizes = (truth.ga_days, truth.hc_mm or "", f"{truth.pixel_size_mm:.6f}")
            writer.writerow([*shown, picture.brain_plane or "", *sizes, *skull])


def read_truth(root: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Read the exact truth of a corpus: (corpus, picture name) -> its row of texts, empty where unknown."""
    with (root / TRUTH_TABLE).open(newline="") as file:
        return {(row["corpus"], row["name"]): row for row in csv.DictReader(file)}
