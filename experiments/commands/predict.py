"""Ask a student about images: planes, brain sub-planes, gestational ages, as a table and as pictures.

usage: sonodistill predict CKPT IMAGES [options]
       sonodistill predict --config FILE ... [options]     (Lightning's own: the test patients of a data module)

CKPT is a checkpoint or an export folder, which needs no PyTorch. IMAGES is a folder, one image, or a table.

  --pixel_size=MM          side of an original pixel; without it (or a column pixel_size_mm) there are no ages
  --protocol=FILE          prompts; default: those that the student was calibrated with, else the default
  --out=FOLDER             default: outputs/predictions/PARENT-NAME-DIGEST, of the path of IMAGES
  --ages=brain|all         images that get an age: those of a predicted brain plane, or all
  --embeddings=npz         write embeddings.npz, too
  --annotate               write the images with their answers below them
  --saliency[=PROMPT]      write heat maps of the similarity with the predicted plane, or with a text of your own
  --device=NAME            device of a checkpoint, such as cuda
  --trust                  build classes of other packages that the checkpoint names
  --column=OURS=THEIRS     a table's own name of a column, such as image=Bild
  --images=FOLDER          folder that a table's paths are relative to
  --outside                allow images of a table outside of that folder
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.parquet import write_table

from datamodules.cores import usable_cores
from datamodules.corpora.table import read_table
from datamodules.pairs.image_reading import IMAGE_SUFFIXES, read_image
from datamodules.progress import show_progress
from experiments.process import Parser, add_table_options, table_reading, terminable
from figures.images import COLD, annotated, overlay_heatmap
from models import load_student
from models.files import atomic_folder
from models.messages import count
from models.student.base import BATCH_SIZE, BRAIN, NONE, SMALLEST_SPACING, Row, Student
from models.student.onnx_files import SpacingNotInTableError

OUT = Path("outputs/predictions")
TABLE = "predictions.csv"
WRITTEN = {TABLE, "predictions.parquet", "embeddings.npz", "annotated", "saliency"}
TEXTS = ("image", "plane", "brain_plane", "ga", "error")
SHOWN = 5


def parse(argv: list[str]) -> Any:
    """Read a command line."""
    parser = Parser(prog="sonodistill predict", description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("images", type=Path)
    parser.add_argument("--pixel_size", type=float)
    parser.add_argument("--protocol")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ages", choices=("brain", "all"), default="brain")
    parser.add_argument("--embeddings", choices=("npz",))
    parser.add_argument("--annotate", action="store_true")
    parser.add_argument("--saliency", nargs="?", const="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trust", action="store_true")
    add_table_options(parser)
    return parser.parse_args(argv)


@terminable()
def main(argv: list[str]) -> int:
    """Run one command line; the exit status is 1 when images could not be read."""
    options = parse(argv)
    source = options.images.resolve()
    # The folder around and a digest of the path are part of the name: two patients' images may both be in scan/frames.
    name = f"{source.parent.name}-{source.stem if source.is_file() else source.name}"
    name += f"-{hashlib.sha256(os.fsencode(source)).hexdigest()[:6]}"
    target = options.out or OUT / name
    if target.exists() and not {path.name for path in target.iterdir()} <= WRITTEN:
        raise ValueError(f"--out={target}: holds something other than predictions; name a new folder")
    asked = asked_images(options.images, options.pixel_size, table_reading(options))
    student = _open(options)
    # Refused before anything is computed: a pixel size in another unit, and the saliency of an export.
    if options.pixel_size is not None:
        student.spacing((1, 1), options.pixel_size)
    if options.saliency is not None:
        student.saliency([np.zeros((8, 8), np.uint8)])
    with atomic_folder(target) as partial:
        predictions, missing_spacings = _write(student, asked, partial, options)
    _say(student, asked, target, predictions, missing_spacings)
    return int(predictions.error.notna().any())


class Asked(NamedTuple):
    """An image: its name in the predictions, its file, and the side of its pixels where that is known."""

    name: str
    path: Path
    pixel_size_mm: float | None


def asked_images(source: Path, pixel_size_mm: float | None, reading: Mapping[str, Any]) -> list[Asked]:
    """List the images of a folder, of a table (see `read_table`), or one file.

    Args:
        source: Folder, table or image.
        pixel_size_mm: Pixel size of images whose table states none.
        reading: Further arguments of `read_table`.
    """
    if source.suffix.casefold() in IMAGE_SUFFIXES and source.is_file():
        if any(reading.values()):
            raise ValueError(f"{source}: one image; --images, --column and --outside are for tables")
        return [Asked(source.name, source, pixel_size_mm)]
    with warnings.catch_warnings():  # that patients are unknown does not matter here
        warnings.simplefilter("ignore")
        table = read_table(source, **reading)
    return [
        Asked(str(name), Path(path), pixel_size_mm if math.isnan(size) else float(size))
        for name, path, size in zip(table.index, table["image"], table["pixel_size_mm"], strict=True)
    ]


def _open(options: Any) -> Student:
    if options.trust:
        from models.checkpoints.trust import apply_trust

        apply_trust(["--trust"])
    prompts = None
    if options.protocol is not None:
        from datamodules.evaluation.protocol import Protocol

        prompts = Protocol.load(options.protocol).content()
    return load_student(options.checkpoint, prompts, options.device)


def columns(student: Student) -> pa.Schema:
    """Return the columns of the table of predictions."""
    blank = np.zeros((1, student.dimension), np.float32)
    names = ["image", *student.classify(blank)[0], "ga_days", "ga", "ga_low_days", "ga_high_days"]
    names += ["ga_coverage", "ga_spacing_mm", "error"]
    kinds = {name: pa.string() if name in {*TEXTS, *answered(names)} else pa.float64() for name in names}
    kinds |= dict.fromkeys(("ga_days", "ga_low_days", "ga_high_days"), pa.int64())
    return pa.schema([*kinds.items()])


def _write(
    student: Student, asked: list[Asked], folder: Path, options: Any
) -> tuple[pd.DataFrame, list[float]]:
    """Write all files; return the predictions, and the spacings that an export lacks."""
    rows: list[Row] = []
    missing_spacings: list[float] = []
    embeddings: list[NDArray[Any]] = []
    for answers, images, embedded in _answers(student, asked, options, missing_spacings):
        rows += answers
        if options.embeddings:
            embeddings.append(embedded)
        _draw(student, folder, options, [row for row in answers if not row.get("error")], images)
    table = pa.Table.from_pylist(rows, columns(student))
    write_table(table, folder / "predictions.parquet")
    predictions = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    # A spreadsheet would compute a name such as =HYPERLINK(...).png.
    named = predictions.assign(image=predictions.image.str.replace(r"^(?=[=+@\t-])", "'", regex=True))
    named.to_csv(folder / TABLE, index=False, float_format="%.6g")
    if options.embeddings:
        names = np.array(predictions.image[predictions.error.isna()], dtype=str)
        np.savez(folder / "embeddings.npz", image=names, embedding=np.concatenate(embeddings))
    return predictions, missing_spacings


def _answers(
    student: Student, asked: list[Asked], options: Any, missing_spacings: list[float]
) -> Iterator[tuple[list[Row], list[NDArray[np.uint8]], NDArray[Any]]]:
    """Yield rows of some images at a time, and the images and embeddings of those that could be read."""
    with ThreadPoolExecutor(usable_cores()) as pool, show_progress("predict", " images") as progress:
        for start in range(0, len(asked), BATCH_SIZE):
            batch = asked[start : start + BATCH_SIZE]
            read = list(pool.map(_read, batch))
            images = [image for image in read if not isinstance(image, str)]
            embedded = student.embed(images)
            answers = iter(zip(images, embedded, student.classify(embedded), strict=True))
            rows: list[Row] = []
            for one, image in zip(batch, read, strict=True):
                if isinstance(image, str):
                    rows.append({"image": one.name, "error": image})
                    continue
                _, vector, row = next(answers)
                if one.pixel_size_mm is not None and (options.ages == "all" or row.get("plane") == BRAIN):
                    spacing = student.spacing((image.shape[1], image.shape[0]), one.pixel_size_mm)
                    try:
                        row |= student.ages(vector[None], [spacing])[0]
                    except SpacingNotInTableError:
                        missing_spacings.append(spacing)
                rows.append({"image": one.name, **row})
            yield rows, images, embedded
            progress(start + len(batch), len(asked))


def _read(one: Asked) -> NDArray[np.uint8] | str:
    try:
        return read_image(one.path)
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())


def _draw(
    student: Student, folder: Path, options: Any, rows: list[Row], images: list[NDArray[np.uint8]]
) -> None:
    """Write the pictures of some images."""
    if options.annotate:
        for row, image in zip(rows, images, strict=True):
            _save(annotated(image, lines_of(row)), folder / "annotated", row["image"])
    if options.saliency is not None and images:
        prompt = options.saliency or None
        for row, image, heat in zip(rows, images, student.saliency(images, prompt), strict=True):
            lines = [prompt or lines_of(row)[0], *([] if heat.any() else [COLD])]
            seen = annotated(overlay_heatmap(image, heat), lines)
            _save(seen, folder / "saliency", row["image"])


def answered(names: Iterable[str]) -> list[str]:
    """Return the columns that hold a class: plane, brain_plane, and the user's own benchmarks, which have any name."""
    names = [*names]
    return [name for name in names if f"{name}_probability" in names]


def lines_of(row: Row) -> list[str]:
    """Return the answers of one row as lines of text."""
    lines = []
    for key in answered(row):
        title = "sub-plane" if key == "brain_plane" else key
        if row[key] == NONE:
            lines.append(f"{title}: none of these")
        elif row[key]:
            lines.append(f"{title}: {row[key]} ({row[f'{key}_probability']:.0%})")
    if row.get("ga_days") is not None:
        interval = ""
        if row["ga_low_days"] is not None:
            low, high = (f"{row[key] // 7} w {row[key] % 7} d" for key in ("ga_low_days", "ga_high_days"))
            interval = f" ({low} to {high})"
        lines.append(f"age: {row['ga']}{interval}")
    return lines or ["no answer"]


def _save(picture: Any, folder: Path, name: str) -> None:
    path = Path(name)
    safe = Path(*(part for part in path.parts if part not in (path.anchor, "..")))
    target = folder / safe.with_name(safe.name if safe.suffix.lower() == ".png" else f"{safe.name}.png")
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target)


def _say(
    student: Student,
    asked: list[Asked],
    target: Path,
    predictions: pd.DataFrame,
    missing_spacings: list[float],
) -> None:
    """Print what was written, what the answers lack, and which images could not be read."""
    failed = [*predictions.error.dropna()]
    print(count(len(asked) - len(failed), "image"))
    for key in answered(predictions):
        if key != "brain_plane":
            found = predictions[key].value_counts()
            print(f"{key}: {', '.join(f'{name} {number}' for name, number in found.items())}")
    known = student.calibration
    if known is None:
        print(
            "not calibrated (other prompts, too few validation patients, or a run that did not score test patients): "
            'ages have no interval, and no image is "none" (docs/predict.md)'
        )
    elif known.age_drop is not None:
        print(
            f"age intervals: {known.coverage:.0%} of patients, from {known.counts['patients']} validation patients"
        )
    if all(one.pixel_size_mm is None for one in asked):
        print("no ages: they need the pixel size (PIXEL_SIZE=0.2, or a column pixel_size_mm)")
    if tiny := sum(spacing < SMALLEST_SPACING for spacing in missing_spacings):
        print(
            f"warning: {count(tiny, 'image')} without an age: pixels of the model's input would be below 0.01 mm"
        )
    if lacking := [spacing for spacing in missing_spacings if spacing >= SMALLEST_SPACING]:
        sizes = ",".join(sorted({f"{spacing:.2f}" for spacing in lacking}))
        print(
            f"warning: {count(len(lacking), 'image')} without an age: export again with --spacings=[{sizes}]"
        )
    print(f"predictions: {target / TABLE} and predictions.parquet")
    if failed:
        more = f" and {len(failed) - SHOWN} more (column error)" if len(failed) > SHOWN else ""
        print(
            f"warning: {count(len(failed), 'image')} could not be read: {'; '.join(failed[:SHOWN])}{more}",
            file=sys.stderr,
        )
