"""Check a corpus on disk: missing and unreadable files, duplicates, leaks between splits, implausible measurements."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from datamodules.corpora.catalogue import CORPORA
from datamodules.corpora.corpus import counts
from datamodules.corpora.table import first_few
from datamodules.pairs.image_reading import read_image
from datamodules.record import Record

Level = Literal["ok", "warning", "error"]

# HC18's pixel sizes are 0.05 to 0.39 mm; heads of 40 to 400 mm cover 10 weeks to beyond term.
PIXEL_SIZE_RANGE_MM = (0.03, 0.5)
HC_RANGE_MM = (40.0, 400.0)
FAINT_CONTRAST = 16
"""Largest minus smallest of 256 values: ultrasound has black surroundings and bright bone, over 200 apart."""
SIXTEEN_BIT = "; 16-bit pixels are read as 0-65535: files that use only 8 or 12 of the bits must be rescaled"


@dataclass(frozen=True)
class Finding:
    """Result of one check: `detail` has the number and the first few cases, `cases` all of them."""

    check: str
    level: Level
    detail: str
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """Result of decoding one image.

    Attributes:
        error: Why it cannot be read; None when it can.
        pixels: Hash of size and pixel values: equal for equal pictures in any file format.
        width: In pixels.
        height: In pixels.
        contrast: Largest minus smallest pixel value.
    """

    error: str | None = None
    pixels: str = ""
    width: int = 0
    height: int = 0
    contrast: int = 0


def check_corpus(name: str, root: Path, workers: int) -> list[Finding]:
    """Run every check on one corpus.

    Args:
        name: Name of the corpus in `datamodules.corpora.catalogue.CORPORA`.
        root: Its folder.
        workers: Number of processes that decode images.

    Raises:
        ValueError: The table is malformed.
        FileNotFoundError: The folder or the table is missing.
    """
    corpus = CORPORA[name]
    missing: list[str] = []
    records = corpus.assign_splits(corpus.read(root, missing))
    scans = scan_images([record.image for record in records], workers)
    return [
        *check_counts(records, corpus.published),
        *check_files(missing, records, scans),
        *check_splits(records),
        *check_duplicates(records, scans),
        *check_measurements(records, scans),
    ]


def scan_image(path: Path) -> Scan:
    """Decode one image."""
    try:
        image = read_image(path)
    except (ValueError, OSError) as error:
        return Scan(error=str(error))
    gray = image if image.ndim == 2 else image[:, :, 0]
    if image.ndim == 3 and (image == gray[:, :, None]).all():
        image = gray  # the same picture stored with three equal channels
    pixels = hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).hexdigest()
    return Scan(None, pixels, image.shape[1], image.shape[0], int(image.max()) - int(image.min()))


def scan_images(paths: list[Path], workers: int) -> list[Scan]:
    """Decode many images in `workers` processes, with a progress bar."""
    bar = partial(tqdm, total=len(paths), desc="decoding", unit="image", disable=None)
    if workers <= 1:
        return list(bar(map(scan_image, paths)))
    with ProcessPoolExecutor(workers) as pool:
        return list(bar(pool.map(scan_image, paths, chunksize=16)))


def check_counts(records: list[Record], published: dict[str, int]) -> list[Finding]:
    """Compare the table with the published numbers; differences are warnings, because subsets are legitimate."""
    found = counts(records)
    return [
        Finding(
            f"count: {name}",
            "ok" if found.get(name, 0) == expected else "warning",
            f"{found.get(name, 0)} of {expected} published",
        )
        for name, expected in published.items()
    ]


def check_files(missing: list[str], records: list[Record], scans: list[Scan]) -> list[Finding]:
    """Report images that are missing, unreadable, blank, or too dark or flat to show anything."""
    unreadable = [scan.error for scan in scans if scan.error is not None]
    contrasts = [(r.name, s.contrast) for r, s in zip(records, scans, strict=True) if s.error is None]
    blank = [name for name, contrast in contrasts if contrast == 0]
    faint = [f"{name} ({contrast})" for name, contrast in contrasts if 0 < contrast < FAINT_CONTRAST]
    return [
        _finding("missing images", "error", missing),
        _finding("unreadable images", "error", unreadable),
        _finding("blank images", "warning", blank, SIXTEEN_BIT),
        _finding("nearly black or flat images", "warning", faint, SIXTEEN_BIT),
    ]


def check_splits(records: list[Record]) -> list[Finding]:
    """Report patients with images in several splits."""
    splits = defaultdict(set)
    for record in records:
        splits[record.patient].add(str(record.split))
    torn = [
        f"patient {patient} ({', '.join(sorted(found))})"
        for patient, found in splits.items()
        if len(found) > 1
    ]
    sizes = ", ".join(
        f"{split} {sum(record.split == split for record in records)}" for split in ("train", "val", "test")
    )
    return [Finding("split sizes", "ok", sizes), _finding("patients in several splits", "error", torn)]


def check_duplicates(records: list[Record], scans: list[Scan]) -> list[Finding]:
    """Report identical pictures: a leak across splits, a wrong label across patients."""
    groups = defaultdict(list)
    for record, scan in zip(records, scans, strict=True):
        if scan.error is None:
            groups[scan.pixels].append(record)
    leaks, shared, copies = [], [], []
    for group in groups.values():
        if len(group) < 2:
            continue
        text = " = ".join(record.name for record in group)
        if len({record.split for record in group}) > 1:
            leaks.append(text)
        elif len({record.patient for record in group}) > 1:
            shared.append(text)
        else:
            copies.append(text)
    return [
        _finding("identical images across splits", "error", leaks),
        _finding("identical images of several patients", "warning", shared),
        _finding("identical images of one patient", "warning", copies),
    ]


def check_measurements(records: list[Record], scans: list[Scan]) -> list[Finding]:
    """Report implausible pixel sizes and head circumferences.

    A head whose mean diameter exceeds the image's diagonal indicates a pixel size in another unit.
    """
    sizes, heads, misfits = [], [], []
    for record, scan in zip(records, scans, strict=True):
        size, hc = record.pixel_size_mm, record.hc_mm
        if size is not None and not PIXEL_SIZE_RANGE_MM[0] <= size <= PIXEL_SIZE_RANGE_MM[1]:
            sizes.append(f"{record.name} ({size:g} mm)")
        if hc is not None and not HC_RANGE_MM[0] <= hc <= HC_RANGE_MM[1]:
            heads.append(f"{record.name} ({hc:g} mm)")
        if size is not None and hc is not None and scan.error is None:
            diameter_px, diagonal_px = hc / math.pi / size, math.hypot(scan.width, scan.height)
            if diameter_px > diagonal_px:
                misfits.append(f"{record.name} ({diameter_px:.0f} of {diagonal_px:.0f} px)")
    if not any(record.pixel_size_mm for record in records):
        return []
    return [
        _finding("odd pixel sizes", "warning", sizes),
        _finding("odd head circumferences", "warning", heads),
        _finding("heads larger than their image", "error", misfits),
    ]


def _finding(check: str, level: Level, cases: list[str], remark: str = "") -> Finding:
    if not cases:
        return Finding(check, "ok", "none")
    return Finding(check, level, f"{len(cases)}: {first_few(cases)}{remark}", tuple(cases))
