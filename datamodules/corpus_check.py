"""What can be wrong with a corpus on disk: missing and unreadable files, leaks, odd measurements."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from datamodules.corpora import counts
from datamodules.image_files import first_few
from datamodules.image_scan import Scan
from datamodules.record import Record

Level = Literal["ok", "warning", "error"]

# HC18's pixel sizes run from 0.05 to 0.39 mm; heads of 40 to 400 mm cover 10 weeks to beyond term.
PIXEL_SIZE_RANGE_MM = (0.03, 0.5)
HC_RANGE_MM = (40.0, 400.0)
FAINT_CONTRAST = 16
"""Largest less smallest of 256 values: ultrasound shows black surroundings and bright bone, over 200 apart."""
SIXTEEN_BIT = "; 16-bit pixels are read as 0-65535: files that use only 8 or 12 of the bits must be rescaled"


@dataclass(frozen=True)
class Finding:
    """The result of one check: `detail` says how many and names the first few, `cases` are all of them."""

    check: str
    level: Level
    detail: str
    cases: tuple[str, ...] = ()


def check_counts(records: list[Record], published: dict[str, int]) -> list[Finding]:
    """Compare the table with the published numbers; a difference warns, because subsets are legitimate."""
    found = counts(records)
    findings = []
    for name, expected in published.items():
        level: Level = "ok" if found.get(name, 0) == expected else "warning"
        findings.append(Finding(f"count: {name}", level, f"{found.get(name, 0)} of {expected} published"))
    return findings


def check_files(missing: list[str], records: list[Record], scans: list[Scan]) -> list[Finding]:
    """Report images that are absent, unreadable, blank, or too dark or flat to show anything."""
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
    """Report patients with images on both sides of a split."""
    sides = defaultdict(set)
    for record in records:
        sides[record.patient].add(record.split)
    torn = [f"patient {patient} ({_joined(where)})" for patient, where in sides.items() if len(where) > 1]
    sizes = ", ".join(
        f"{split} {sum(record.split == split for record in records)}" for split in ("train", "val", "test")
    )
    return [Finding("split sizes", "ok", sizes), _finding("patients in several splits", "error", torn)]


def check_duplicates(records: list[Record], scans: list[Scan]) -> list[Finding]:
    """Report identical pictures: across splits they leak, across patients one of the two is mislabelled."""
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
    """Report pixel sizes and head circumferences that cannot be right.

    A head whose mean diameter exceeds the image's diagonal points to a pixel size in another unit.
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


def _joined(splits: set[str | None]) -> str:
    return ", ".join(sorted(str(split) for split in splits))
