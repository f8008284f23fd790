"""Make the phantom corpus on disk in the layouts of FETAL_PLANES_DB, HC18 and WebDataset pairs, once and atomically."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
from filelock import FileLock

from datamodules.cores import usable_cores, worker_pool
from datamodules.corpora.fetal_planes import FETAL_PLANES_IMAGES, FETAL_PLANES_TABLE
from datamodules.corpora.hc18 import HC18_IMAGES, HC18_TABLE
from datamodules.pairs.captions import caption_templates
from datamodules.phantom.patients import CORPORA, Picture, list_pictures
from datamodules.phantom.renderer import Truth, render
from datamodules.progress import with_progress
from datamodules.record import Record
from models.files import atomic_folder, digest, write_json

SIMULATOR_VERSION = 3  # increase it whenever a picture changes, so that older corpora are not reused
DEFAULT_ROOT = Path("data/phantom")
PNG_COMPRESSION = 1  # speckle hardly compresses: higher levels only take longer
MOST_WORKERS = 8  # each takes 0.14 GB
IN_PROCESS = 200  # fewer pictures are drawn in this process: starting others would take longer

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


@dataclass(frozen=True)
class PhantomSettings:
    """Settings that determine the corpus, together with the simulator's version.

    Attributes:
        seed: Seed of every draw.
        num_planes_images: Pictures in the layout of FETAL_PLANES_DB.
        num_hc18_images: Pictures in the layout of HC18.
        num_pair_images: Image-caption pairs in WebDataset shards, from separate patients.
        planes_images_per_patient: Mean number of pictures of a patient (12,400 / 1,792 in the real set).
        hc18_images_per_patient: Mean number of pictures of a patient (999 / 806 in the real set).
        test_share: Share of FETAL_PLANES_DB-type patients whose official Train flag is 0.
        further_tests: Pictures of additional test patients in the first two layouts, as a share of the numbers above:
            they narrow the intervals of the scores and leave training and validation as they are.
    """

    seed: int = 0
    num_planes_images: int = 3600
    num_hc18_images: int = 1600
    num_pair_images: int = 256
    planes_images_per_patient: float = 6.9
    hc18_images_per_patient: float = 1.24
    test_share: float = 0.35
    further_tests: float = 0.32

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 1 if name.endswith("per_patient") else 0
            if value < least:
                raise ValueError(f"phantom: {name} must be at least {least}, not {value}")
        if not 0 <= self.test_share < 1:
            raise ValueError(f"phantom: test_share must lie in [0, 1), not {self.test_share}")

    def at_most(self, planes: int, heads: int) -> PhantomSettings:
        """Return the settings of a corpus of at most this many pictures in the two layouts, without pairs.

        At least the default share of the patients is for tests: a smaller one of few patients may be none.
        """
        planes, heads = min(self.num_planes_images, planes), min(self.num_hc18_images, heads)
        share = max(self.test_share, PhantomSettings.test_share)
        return replace(
            self,
            num_planes_images=planes,
            num_hc18_images=heads,
            num_pair_images=0,
            test_share=share,
            further_tests=0.0,
        )

    @property
    def digest(self) -> str:
        """Name of the corpus's folder: a hash of the settings and the simulator's version."""
        return digest({"simulator": SIMULATOR_VERSION, **asdict(self)})[:12]

    def pictures(self) -> list[Picture]:
        """Return every picture of the corpus, in a fixed order."""
        sizes = (
            (self.num_planes_images, self.planes_images_per_patient, self.further_tests),
            (self.num_hc18_images, self.hc18_images_per_patient, self.further_tests),
            (self.num_pair_images, self.planes_images_per_patient, 0.0),
        )
        return [
            picture
            for corpus, (count, mean, further) in zip(CORPORA, sizes, strict=True)
            for picture in list_pictures(
                corpus, count, self.seed, mean, self.test_share, round(further * count)
            )
        ]


def make_corpus(
    settings: PhantomSettings, root: str | Path = DEFAULT_ROOT, workers: int | None = None
) -> Path:
    """Return the folder of the corpus under `root`, and make it first if it is missing.

    The folder gets its name only when it is complete. Of several processes that ask at once, one makes
    the corpus and the others wait for it. By default, `workers` is the number of usable cores, at most 8.
    """
    root = Path(root)
    target = root / settings.digest
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{settings.digest}.lock"):
        if not target.is_dir():
            with atomic_folder(target) as folder:
                _fill(folder, settings, workers)
    return target


def _fill(folder: Path, settings: PhantomSettings, workers: int | None) -> None:
    pictures = settings.pictures()
    for parent in {image_path(folder, picture).parent for picture in pictures}:
        parent.mkdir(parents=True)
    draw = partial(_draw, folder, settings.seed)
    workers = min(usable_cores(), MOST_WORKERS) if workers is None else workers
    bar = partial(with_progress, total=len(pictures), what="phantom corpus", unit=" images")
    if workers == 1 or len(pictures) < IN_PROCESS:
        truths = list(bar(map(draw, pictures)))
    else:
        with worker_pool(workers) as pool:
            truths = list(bar(pool.map(draw, pictures, chunksize=8)))
    write_tables(folder, pictures, truths)
    write_json(folder / "settings.json", {"simulator": SIMULATOR_VERSION, **asdict(settings)})


def _draw(folder: Path, seed: int, picture: Picture) -> Truth:
    image, truth = render(picture, seed)
    path = image_path(folder, picture)
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]):
        raise OSError(f"{path}: could not be written; is the disk full?")
    return truth


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
    if pairs:
        _write_shards(root, pairs)
    for path, separator, row, chosen in (
        (f"{PLANES_FOLDER}/{FETAL_PLANES_TABLE}", ";", _planes_row, planes),
        (f"{HC18_FOLDER}/{HC18_TABLE}", ",", _heads_row, heads),
        (TRUTH_TABLE, ",", _truth_row, rows),
    ):
        if chosen:
            table = pd.DataFrame([row(*drawn) for drawn in chosen])
            table.to_csv(root / path, sep=separator, index=False, lineterminator="\n")


def read_truth(root: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Read the exact truth of a corpus: (corpus, picture name) -> its row as texts, empty where unknown."""
    table = pd.read_csv(root / TRUTH_TABLE, dtype=str, keep_default_na=False)
    return {(row["corpus"], row["name"]): row for row in table.to_dict("records")}


def _planes_row(picture: Picture, _: Truth) -> dict[str, Any]:
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


def _heads_row(picture: Picture, truth: Truth) -> dict[str, Any]:
    return {
        "filename": f"{picture_name(picture)}.png",
        "pixel size(mm)": f"{truth.pixel_size_mm:.12f}",
        "head circumference (mm)": f"{truth.hc_mm:.2f}",
    }


def _truth_row(picture: Picture, truth: Truth) -> dict[str, Any]:
    names = ("cx_px", "cy_px", "a_px", "b_px", "angle_rad")
    values = [None] * 5 if truth.skull is None else [f"{v:.4f}" for v in astuple(truth.skull)]
    return {
        "corpus": picture.corpus,
        "name": picture_name(picture),
        "patient": picture.patient.number,
        "plane": picture.plane,
        "brain_plane": picture.brain_plane,
        "ga_days": truth.ga_days,
        "hc_mm": truth.hc_mm or "",
        "pixel_size_mm": f"{truth.pixel_size_mm:.6f}",
        **{f"skull_{name}": value for name, value in zip(names, values, strict=True)},
    }


def _write_shards(root: Path, rows: list[tuple[Picture, Truth]]) -> None:
    """Pack the pairs as ``pairs-000000.tar``: ``.png``, and ``.json`` with facts and all fitting captions."""
    import webdataset as wds  # it imports PyTorch, which the processes that draw do not need

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
