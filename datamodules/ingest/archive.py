"""Turn a folder of DICOM files and cine loops into de-identified PNG files with a table; continues where it stopped.

A file's identifiers and its path leave this module only as keyed hashes (HMAC-SHA256). Results of finished files are
kept in ``files.jsonl`` in the output folder, under the hash of the path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import cv2
import numpy as np
import pandas as pd

from datamodules.cores import worker_pool
from datamodules.ingest.labels import LABELS, join_labels, keyed_labels
from datamodules.ingest.overlays import Picture, find_sector, find_text, only_within
from datamodules.ingest.scans import (
    BURNED_IN,
    CINE_SUFFIXES,
    COLOUR_FLOW,
    NO_DICOM,
    NO_PICTURE,
    NO_REGION,
    NO_TISSUE,
    Box,
    ScanError,
    check_dicom_extra,
    chosen_frames,
    is_colour,
    read_cine,
    read_dicom,
    reading,
)
from datamodules.ingest.source_files import list_files, pseudonym, relative
from datamodules.progress import with_progress
from datamodules.record import PLAUSIBLE
from models.files import atomic, package_versions, write_json, write_text

JOURNAL, TABLE, REPORT, SHEET = "files.jsonl", "table", "ingest.json", "contact-sheet.png"
TEXT, NO_SECTOR = "text beside the sector", "no sector found"
NO_SURROUNDINGS = "no black surroundings, so text and sector cannot be told apart"
COPY, CRASH = "a copy of another file", "the decoder crashed"
DELETED = "deleted pictures"  # key of the journal's line with their names
_COLUMNS = (
    "image", "patient", "study", "source", "frame", "pixel_size_mm", "modality", "manufacturer", "model",
    "rows", "columns", "colour_doppler",
)  # fmt: skip
_SHEET_IMAGES = 48
_FILLED = 0.99  # share of a picture; the largest sector in HC18 has 0.98


@dataclass(frozen=True)
class IngestSettings:
    """What determines the output, together with the files and the secret.

    Attributes:
        frames: "middle", "all" or "every:N".
        region: Part of the picture to keep in files without an ultrasound region: left, top, right, bottom in pixels;
            "whole" trusts the picture; None keeps such files out.
        burned_in: Files that may show identifying text: "drop" keeps them out; "mask" blackens everything outside the
            sector; "keep" takes them as they are.
    """

    frames: str = "middle"
    region: Box | Literal["whole"] | None = None
    burned_in: Literal["drop", "mask", "keep"] = "drop"

    def __post_init__(self) -> None:
        chosen_frames(self.frames, 1)


@dataclass(frozen=True)
class _Job:
    path: Path
    key: str  # hash of path, size and time
    folder: str  # of the source, for a cine loop's patient


def file_ids(source: Path, secret: str) -> dict[str, str]:
    """Map the id by which reports name a file to its path, as text that can be printed."""
    return {
        name: os.fsencode(path).decode(errors="backslashreplace")
        for name, path, _ in list_files(source, secret)
    }


def ingest(
    source: Path,
    out: Path,
    secret: str,
    settings: IngestSettings,
    workers: int,
    labels: pd.DataFrame | None = None,
    labelled_only: bool = False,
) -> dict[str, Any]:
    """Read every file below `source` and write PNG files, table, report and contact sheet into `out`.

    `labels` is a table of the user's own, see `keyed_labels`; `labelled_only` leaves pictures that it gives no label
    out of the table.

    Returns:
        The content of ``ingest.json``.
    """
    check_dicom_extra()
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out}: lies in the source folder; give a folder outside of {source}")
    jobs = _jobs(source, secret)
    if not jobs:
        raise ValueError(f"{source}: holds no files")
    # Before the decoding, which takes hours: a mistake in the labels ends the command at once.
    files = {_file_of(job.key) for job in jobs}
    labelled = None if labels is None else keyed_labels(labels, secret, files)
    done = _open_journal(out, secret, settings)
    known = {_file_of(key) for key in done.keys() - {DELETED}}
    if known and not known & files:
        raise ValueError(f"{out}: was made from another source; give a new folder")
    deleted = _deleted(out, done)
    work = partial(_convert, out, secret, settings, deleted)
    todo = [job for job in jobs if job.key not in done]
    results = with_progress(
        _results(work, todo, workers), len(jobs), "ingest", " files", len(jobs) - len(todo)
    )
    with (out / JOURNAL).open("a", encoding="utf-8") as journal:
        for key, result in results:
            done[key] = result
            # What failed by the disk or the memory is not noted: the next call tries the file once more.
            if result["reason"] != CRASH and not result.get("again"):
                _note(journal, key, result)
    finished = [done[job.key] for job in jobs]
    # Before the removal: labels that fit no picture end here.
    table, counts = _make_table(out, finished, labelled, labelled_only)
    removed = _remove_withdrawn(out, done, {job.key for job in jobs})
    report = _finish(out, settings, finished, table) | counts
    report["pictures of files that are no longer in the source, removed"] = removed
    write_json(out / REPORT, report)
    return report


def _jobs(source: Path, secret: str) -> list[_Job]:
    """Return the files in the order of their keys: results in the order of paths would show that of names."""
    jobs = []
    for name, path, state in list_files(source, secret):
        below = relative(path, source)
        folder = below.parts[0] if len(below.parts) > 1 else below.stem
        # From a hash without the secret, size and time could be guessed.
        known = pseudonym(secret, "state", f"{state.st_size} {state.st_mtime_ns}")
        jobs.append(_Job(path, f"{name}-{known}", folder))
    return sorted(jobs, key=lambda job: job.key)


def _open_journal(out: Path, secret: str, settings: IngestSettings) -> dict[str, dict[str, Any]]:
    """Return the results of finished files by key; start the journal if there is none."""
    head = {"settings": json.loads(json.dumps(asdict(settings))), "secret": pseudonym(secret, "check", "")}
    path = out / JOURNAL
    if not path.is_file():
        if out.is_dir() and any(out.glob("[!.]*")):  # hidden: a killed process's partial file
            raise ValueError(f"{out}: is not empty and no earlier output of this command; give a new folder")
        write_text(path, json.dumps(head) + "\n")
        return {}
    first, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    before = json.loads(first)
    for part, what in (("secret", "another secret"), ("settings", "other settings")):
        if before[part] != head[part]:
            raise ValueError(f"{out}: was made with {what}; repeat those or give a new folder")
    if lines and not lines[-1].endswith("\n"):  # of a killed process
        write_text(path, first + "".join(lines := lines[:-1]))
    rows = map(json.loads, lines)
    return {row.pop("key"): row for row in rows}


def _note(journal: IO[str], key: str, result: dict[str, Any]) -> None:
    journal.write(json.dumps({"key": key, **result}) + "\n")
    journal.flush()


def _file_of(key: str) -> str:
    """Return the file's id in the key of a result."""
    return key.partition("-")[0]


def _pictures(done: dict[str, dict[str, Any]]) -> set[str]:
    return {row["image"] for result in done.values() for row in result.get("rows", ())}


def _deleted(out: Path, done: dict[str, dict[str, Any]]) -> frozenset[str]:
    """Return the names of the pictures that the user has deleted, now or before, and note them for good.

    Their files may be read again, for example as copies or with another time; the pictures stay away.
    """
    before = set(done.pop(DELETED, {"names": []})["names"])
    names = before | {Path(image).name for image in _pictures(done) if not (out / image).is_file()}
    if names != before:
        with (out / JOURNAL).open("a", encoding="utf-8") as journal:
            _note(journal, DELETED, {"names": sorted(names)})
    return frozenset(names)


def _remove_withdrawn(out: Path, done: dict[str, dict[str, Any]], present: set[str]) -> int:
    """Remove the pictures and results of files that left the source; return the number of pictures.

    Pictures without a result, of files that failed at a later frame, are removed, too.
    """
    gone = done.keys() - present
    kept, withdrawn = (_pictures({key: done[key] for key in keys}) for keys in (present, gone))
    names = {path.relative_to(out).as_posix() for path in out.glob("images/**/*.png")} - kept
    # First: a picture that is missing without this would count as deleted by the user.
    lines = (out / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
    write_text(out / JOURNAL, "".join(line for line in lines if json.loads(line).get("key") not in gone))
    for name in names:
        (out / name).unlink()
        with suppress(OSError):  # not the patient's last picture
            (out / name).parent.rmdir()
    return len(names & withdrawn)


def _results(work: Any, jobs: list[_Job], workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, result) as files are finished. One that crashes its process is a result, too."""
    if workers <= 1:
        yield from ((job.key, work(job)) for job in jobs)
        return
    alone = False  # after a crash, to find out whose it was
    while jobs:
        finished = 0
        with worker_pool(1 if alone else workers) as pool:
            futures = [(job, pool.submit(work, job)) for job in (jobs[:1] if alone else jobs)]
            try:
                for job, future in futures:
                    yield job.key, future.result()
                    finished += 1
                alone = False
            except BrokenProcessPool:
                if alone:
                    yield jobs[0].key, _kept_out(jobs[0], CRASH)
                    finished = 1
                alone = not alone
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        jobs = jobs[finished:]


def _kept_out(job: _Job, reason: str, bad: bool = True) -> dict[str, Any]:
    return {"file": _file_of(job.key), "reason": reason, "bad": bad, "rows": [], "kept_out": {}}


def _convert(
    out: Path, secret: str, settings: IngestSettings, deleted: frozenset[str], job: _Job
) -> dict[str, Any]:
    """Write the pictures of one file, but for those that a user has `deleted`, and return its rows."""
    region = settings.region if isinstance(settings.region, tuple) else None
    try:
        read = read_cine if job.path.suffix.lower() in CINE_SUFFIXES else read_dicom
        scan = read(job.path, settings.frames, region)
        if read is read_dicom and scan.attributes["modality"] != "US":
            return _kept_out(job, "not ultrasound", bad=False)
        if NO_REGION in scan.flags and settings.region is None:
            return _kept_out(job, NO_REGION, bad=False)
        if BURNED_IN in scan.flags and settings.burned_in == "drop":
            return _kept_out(job, BURNED_IN, bad=False)
        with reading("file"), job.path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        study = pseudonym(secret, "study", scan.study or job.folder)
        patient = pseudonym(secret, "patient", scan.patient or scan.study or job.folder)
        attributes = dict(scan.attributes)
        result = _kept_out(job, "", bad=False)
        result |= {"encoding": attributes.pop("encoding"), "has_patient": bool(scan.patient)}
        result["text_cut_off"] = False
        least, largest, *_ = PLAUSIBLE["pixel_size_mm"]
        spacing = scan.pixel_size_mm
        result["implausible_spacing"] = spacing is not None and not least <= spacing <= largest
        dropped: Counter[str] = Counter()
        for number, picture, text_cut_off in scan.frames:
            result["text_cut_off"] |= text_cut_off
            sector = find_sector(picture)
            if NO_REGION in scan.flags and settings.burned_in != "keep" and sector.mean() > _FILLED:
                dropped[NO_SURROUNDINGS] += 1
                continue
            if settings.burned_in == "mask" and not sector.any():
                dropped[NO_SECTOR] += 1
                continue
            if settings.burned_in == "drop" and find_text(picture, sector):
                dropped[TEXT] += 1
                continue
            if settings.burned_in == "mask":
                picture = only_within(picture, sector)
            name = f"images/{patient}/{pseudonym(secret, 'content', content)}-{number:04d}.png"
            if Path(name).name not in deleted:
                _write_png(out / name, picture)
            doppler = COLOUR_FLOW in scan.flags or is_colour(picture)
            row = {
                "image": name,
                "patient": patient,
                "study": study,
                "source": result["file"],
                "frame": number,
            }
            row["pixel_size_mm"] = None if result["implausible_spacing"] else spacing
            result["rows"].append({**row, "colour_doppler": doppler, **attributes})
    except ScanError as error:
        reason = str(error)
        bad = reason not in (NO_PICTURE, NO_TISSUE, NO_DICOM) or (
            reason == NO_DICOM and job.path.suffix.lower() == ".dcm"
        )
        return _kept_out(job, reason, bad) | {"again": error.again}
    reason = "" if result["rows"] else next(iter(dropped), NO_PICTURE)
    return {**result, "kept_out": dict(dropped), "reason": reason}


def _write_png(path: Path, picture: Picture) -> None:
    with atomic(path) as partial_path:
        if not cv2.imwrite(str(partial_path), picture if picture.ndim == 2 else picture[:, :, ::-1]):
            raise OSError(f"{path}: could not be written; is the disk full?")


def _make_table(
    out: Path, results: list[dict[str, Any]], labels: pd.DataFrame | None, labelled_only: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the table of the pictures, and the report's entries about it."""
    table = pd.DataFrame([row for result in results for row in result["rows"]], columns=list(_COLUMNS))
    unique = table["image"].nunique()
    copies = len(table) - unique
    # After a look at the pictures a user may have deleted some.
    present = np.array([(out / name).is_file() for name in table["image"]], dtype=bool)
    table = table[present].reset_index(drop=True)
    table = table.astype({**dict.fromkeys(("frame", "rows", "columns"), "Int64"), "pixel_size_mm": "Float64"})
    counts = {COPY: copies, "deleted pictures": unique - table["image"].nunique()}
    unused: list[int] = []
    if labels is not None:
        table, unused = join_labels(table, labels)
        bare = table[[name for name in LABELS if name in labels.columns]].isna().all(axis=1)
        # Labelled pictures first: of two copies of a file the labels may name either.
        table = table[~bare] if labelled_only else table.iloc[bare.argsort(kind="stable")]
    table = table.drop_duplicates("image").sort_values("image", ignore_index=True)
    shown = unique - counts["deleted pictures"]
    return table, counts | {
        "images without a label, left out": shown - len(table),
        "rows of labels without an image": unused,
    }


def _finish(
    out: Path, settings: IngestSettings, results: list[dict[str, Any]], table: pd.DataFrame
) -> dict[str, Any]:
    """Write table and contact sheet; return the report."""
    with atomic(out / f"{TABLE}.csv") as csv:
        table.to_csv(csv, index=False)
    with atomic(out / f"{TABLE}.parquet") as parquet:
        table.to_parquet(parquet, index=False)
    if len(table):
        _write_sheet([out / name for name in table["image"]], out / SHEET)
    else:
        (out / SHEET).unlink(missing_ok=True)
    used = [result for result in results if result["rows"]]
    kept_out = Counter(result["reason"] for result in results if not result["rows"])
    return {
        "settings": asdict(settings),
        "files": {"read": len(results), "used": len(used), "kept out": dict(kept_out.most_common())},
        "images": len(table),
        "patients": int(table["patient"].nunique()),
        "images without pixel size": int(table["pixel_size_mm"].isna().sum()),
        "files with an implausible pixel size, left out": sum(
            result["implausible_spacing"] for result in used
        ),
        "images with colour Doppler": int(table["colour_doppler"].astype(bool).sum()),
        "files without patient identifier": sum(not result["has_patient"] for result in used),
        "files with text outside the region, cut off": sum(result["text_cut_off"] for result in used),
        "frames kept out": dict(sum((Counter(result["kept_out"]) for result in results), Counter())),
        "encodings": dict(Counter(result["encoding"] for result in used).most_common()),
        "bad files": [{"id": r["file"], "reason": r["reason"]} for r in results if r["bad"]],
        "versions": package_versions("pydicom", "pylibjpeg", "opencv-python-headless"),
    }


def _write_sheet(images: list[Path], out: Path) -> None:
    """Draw at most 48 pictures, evenly spaced over the list."""
    from figures.images import image_figure  # not in the workers, which import this module
    from figures.style import save_png

    numbers = np.unique(np.linspace(0, len(images) - 1, _SHEET_IMAGES).round().astype(int))
    chosen = [images[number] for number in numbers]
    pictures = [np.asarray(cv2.imread(str(path)), np.uint8)[:, :, ::-1] for path in chosen]
    with atomic(out) as partial_path:
        save_png(image_figure(pictures, [path.name for path in chosen], [True] * len(chosen)), partial_path)
