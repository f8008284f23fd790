"""Check a corpus on disk: missing and unreadable files, duplicates, leaks, implausible measurements; contact sheet."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from open_clip.tokenizer import SimpleTokenizer

from datamodules.corpora.copies import nearest_copies, scan_images
from datamodules.corpora.corpus import counts, with_splits
from datamodules.corpora.public import CORPORA
from datamodules.corpora.records import table_records
from datamodules.corpora.table import read_table
from datamodules.pairs.captions import caption_templates
from datamodules.pairs.image_reading import read_image
from datamodules.record import Record
from figures.images import image_figure
from figures.style import save_png
from models.files import atomic
from models.messages import first_few

Level = Literal["ok", "warning", "error"]

# HC18's pixel sizes are 0.05 to 0.39 mm; heads of 40 to 400 mm cover 10 weeks to beyond term.
PIXEL_SIZE_RANGE_MM = (0.03, 0.5)
HC_RANGE_MM = (40.0, 400.0)
FAINT_CONTRAST = 16
"""Largest minus smallest of 256 values: ultrasound has black surroundings and bright bone, over 200 apart."""
SHEET_IMAGES = 24
UNKNOWN = "; each counts as a patient of its own, so images of one patient may be in training and test"
SIXTEEN_BIT = "; 16-bit pixels are read as 0-65535: files that use only 8 or 12 of the bits must be rescaled"


@dataclass(frozen=True)
class Finding:
    """Result of one check: `detail` has the number and the first few cases, `cases` all of them."""

    check: str
    level: Level
    detail: str
    cases: tuple[str, ...] = ()


def check_corpus(
    name: str, root: Path, workers: int, benchmarks: Sequence[tuple[str, Path]] = ()
) -> list[Finding]:
    """Run every check on a corpus of `datamodules.corpora.public.CORPORA`; `workers` processes decode images.

    With `benchmarks` (see `benchmark_copies`), copies of their images are errors.
    """
    corpus = CORPORA[name]
    missing: list[str] = []
    records = corpus.assign_splits(corpus.read(root, missing))
    images = scan_images(records, workers)
    findings = [*check_counts(records, corpus.published), *check_images(missing, images)]
    if benchmarks:
        findings.append(check_copies(benchmark_copies(images, benchmarks, workers), images["name"]))
    return findings


def check_tables(
    paths: Sequence[Path], reading: Mapping[str, Any], workers: int, context_length: int = 77
) -> tuple[list[Finding], pd.DataFrame]:
    """Run every check on one or more tables of a user's own; also return the scanned images (see `scan_images`).

    Args:
        paths: The tables (see `datamodules.corpora.table.read_table`).
        reading: Further arguments of `read_table`.
        workers: Processes that decode.
        context_length: Tokens that a text tower reads; longer captions are cut off.
    """
    missing: list[str] = []
    unknown: list[str] = []
    unsplit: list[str] = []
    records: list[Record] = []
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown patients are a finding below
            own = table_records(read_table(path, **reading, missing=missing))
        # Patients of several tables are the same if they are called the same: only then can leaks be found. An image
        # that stands for its unknown patient is no other table's.
        alone = [record.patient == record.name for record in own]
        if len(paths) > 1:
            own = [replace(r, name=f"{path}: {r.name}") for r in own]
        own = [replace(r, patient=r.name) if a else r for r, a in zip(own, alone, strict=True)]
        unknown += [record.name for record in own if record.patient == record.name]
        if any(record.split for record in own):
            unsplit += [record.name for record in own if record.split is None]
        records += own
    if all(record.split is None for record in records):
        records = with_splits(records)
    images = scan_images(records, workers)
    findings = [
        *(Finding(f"count: {name}", "ok", str(number)) for name, number in counts(records).items()),
        finding_of("patients unknown", "warning", unknown, UNKNOWN),
        finding_of("rows without a split", "error", unsplit, "; give all rows of a table a split, or none"),
        *check_images(missing, images),
        *check_captions(records, context_length),
    ]
    return findings, images


def check_images(missing: list[str], images: pd.DataFrame) -> list[Finding]:
    """Run the checks that corpora and tables share; `images` is of `scan_images`."""
    return [
        *check_files(missing, images),
        *check_splits(images),
        *check_duplicates(images),
        *check_measurements(images),
    ]


def check_captions(records: Sequence[Record], context_length: int) -> list[Finding]:
    """Report images for which there is no caption, and captions that a text tower cuts off (CLIP's tokens)."""
    uncaptioned, long = [], []
    encode = SimpleTokenizer().encode
    tokens = cache(lambda text: len(encode(text)) + 2)  # with start and end
    for record in records:
        try:
            longest = max(map(tokens, caption_templates(record)))
        except ValueError:
            uncaptioned.append(record.name)
            continue
        if longest > context_length:
            long.append(f"{record.name} ({longest} tokens)")
    share = f"; {len(long) / max(1, len(records)):.1%} of the images, cut off at {context_length} tokens"
    return [
        finding_of("images without caption", "error", uncaptioned),
        finding_of("captions beyond the context length", "warning", long, share),
    ]


def benchmark_copies(
    images: pd.DataFrame, benchmarks: Iterable[tuple[str, Path]], workers: int
) -> dict[Any, str]:
    """Return row of `images` (of `scan_images`) -> "hc18 010_HC.png", the benchmark image of which it is a copy.

    Args:
        images: The corpus to look through.
        benchmarks: Name and folder of each public corpus of which no image may occur.
        workers: Processes that decode the benchmark's images.
    """
    readable = images.dropna(subset="perceptual_hash")
    found: dict[Any, str] = {}
    for name, root in benchmarks:
        theirs = scan_images(CORPORA[name].read(root), workers).dropna(subset="perceptual_hash")
        nearest = nearest_copies(readable["perceptual_hash"].tolist(), theirs["perceptual_hash"].tolist())
        for row, place in zip(readable.index, nearest, strict=True):
            if place is not None:
                found.setdefault(row, f"{name} {theirs['name'].iloc[place]}")
    return found


def check_counts(records: list[Record], published: dict[str, int]) -> list[Finding]:
    """Compare the table with the published numbers; differences are warnings, because subsets are legitimate."""
    found = counts(records)
    findings = []
    for name, expected in published.items():
        level: Level = "ok" if found.get(name, 0) == expected else "warning"
        findings.append(Finding(f"count: {name}", level, f"{found.get(name, 0)} of {expected} published"))
    return findings


def check_files(missing: list[str], images: pd.DataFrame) -> list[Finding]:
    """Report images that are missing, unreadable, blank, or too dark or flat to show anything."""
    faint = images[images["contrast"].between(1, FAINT_CONTRAST - 1)]
    return [
        finding_of("missing images", "error", missing),
        finding_of("unreadable images", "error", images["error"].dropna()),
        finding_of("blank images", "warning", images["name"][images["contrast"] == 0], SIXTEEN_BIT),
        finding_of(
            "nearly black or flat images", "warning", _measured(faint, faint["contrast"]), SIXTEEN_BIT
        ),
    ]


def check_splits(images: pd.DataFrame) -> list[Finding]:
    """Report patients with images in several splits."""
    found = images.dropna(subset="split").groupby("patient", sort=False)["split"].unique()
    several = [
        f"patient {patient} ({', '.join(sorted(splits))})"
        for patient, splits in found.items()
        if len(splits) > 1
    ]
    sizes = images["split"].value_counts()
    detail = ", ".join(f"{split} {sizes.get(split, 0)}" for split in ("train", "val", "test"))
    return [Finding("split sizes", "ok", detail), finding_of("patients in several splits", "error", several)]


def check_duplicates(images: pd.DataFrame) -> list[Finding]:
    """Report identical pictures: a leak across splits, a wrong label across patients."""
    equal = images[images.duplicated("pixel_digest", keep=False)].groupby("pixel_digest", sort=False)
    found = equal.agg({"name": " = ".join, "split": "nunique", "patient": "nunique"})
    leaks, shared = found["split"] > 1, found["patient"] > 1
    return [
        finding_of("identical images across splits", "error", found["name"][leaks]),
        finding_of("identical images of several patients", "warning", found["name"][~leaks & shared]),
        finding_of("identical images of one patient", "warning", found["name"][~leaks & ~shared]),
    ]


def check_copies(copies: Mapping[Any, str], names: Mapping[Any, str]) -> Finding:
    """Report images that are copies of a benchmark's, by row."""
    cases = [f"{names[row]} = {copy}" for row, copy in copies.items()]
    return finding_of("copies of benchmark images", "error", cases)


def check_measurements(images: pd.DataFrame) -> list[Finding]:
    """Report implausible pixel sizes and head circumferences.

    A head whose mean diameter exceeds the image's diagonal indicates a pixel size in another unit.
    """
    size, hc = images["pixel_size_mm"].astype(float), images["hc_mm"].astype(float)
    if size.isna().all():
        return []
    odd_size = size.notna() & ~size.between(*PIXEL_SIZE_RANGE_MM)
    odd_hc = hc.notna() & ~hc.between(*HC_RANGE_MM)
    diameter = hc / math.pi / size
    misfit = diameter > np.hypot(images["width"].astype(float), images["height"].astype(float))
    misfits = _measured(images[misfit], diameter.round(), " px")
    return [
        finding_of("odd pixel sizes", "warning", _measured(images[odd_size], size, " mm")),
        finding_of("odd head circumferences", "warning", _measured(images[odd_hc], hc, " mm")),
        finding_of("heads larger than their image", "error", misfits),
    ]


def _measured(images: pd.DataFrame, values: pd.Series, unit: str = "") -> list[str]:
    return [f"{name} ({values[row]:g}{unit})" for row, name in images["name"].items()]


def finding_of(check: str, level: Level, found: Iterable[str], remark: str = "") -> Finding:
    """Return the finding of a check: "ok" without cases, else `level` with their number, the first few and `remark`."""
    cases = tuple(found)
    if not cases:
        return Finding(check, "ok", "none")
    return Finding(check, level, f"{len(cases)}: {first_few(cases)}{remark}", cases)


def write_sheet(images: pd.DataFrame, out: Path) -> Path:
    """Draw up to `SHEET_IMAGES` readable images (see `scan_images`), the planes as evenly as they allow; return `out`.

    Pictures that are nearly black, or the same as another one, have red titles and come first.
    """
    images = images[images["error"].isna()].copy()
    images["doubt"] = images.duplicated("pixel_digest", keep=False) | (images["contrast"] < FAINT_CONTRAST)
    images["title"] = images["plane"].fillna("").str.cat(images["brain_plane"].fillna(""), " ").str.strip()
    images["turn"] = images.groupby(images["plane"].fillna("").astype(str)).cumcount()
    order = images.sort_values(["doubt", "turn"], ascending=[False, True], kind="stable")
    chosen = order[:SHEET_IMAGES]
    titles = [
        f"{name[-28:]}\n{title[-28:]}" for name, title in zip(chosen["name"], chosen["title"], strict=True)
    ]
    figure = image_figure([read_image(path) for path in chosen["image"]], titles, (~chosen["doubt"]).tolist())
    with atomic(out) as partial:
        save_png(figure, partial)
    return out
