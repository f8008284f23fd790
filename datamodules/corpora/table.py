"""Read a user's table of images and captions: CSV, TSV, Excel, JSON Lines, Parquet, or an image folder."""

from __future__ import annotations

import errno
import json
import os
import re
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.corpora import fada
from datamodules.corpora.cells import canonical, separated, texts
from datamodules.ingest import archive
from datamodules.pairs.image_reading import IMAGE_SUFFIXES
from models.messages import count, first_few, one_line

SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".jsonl", ".ndjson", ".parquet")
# Column -> its usual names, the preferred first; letter case, blanks and hyphens do not matter.
COLUMNS = {
    "image": ("image", "file_name", "filename", "path", "filepath", "file_path", "file", "image_path", "image_name"),
    "caption": ("caption", "captions", "text", "report", "title"),
    "patient": ("patient", "patient_id", "patient_num", "subject", "subject_id"),
    "split": ("split",),
    "plane": ("plane",),
    "brain_plane": ("brain_plane", "subplane"),
    "ga_days": ("ga_days",),
    "ga_weeks": ("ga_weeks",),
    "hc_mm": ("hc_mm", "head_circumference_mm"),
    "pixel_size_mm": ("pixel_size_mm", "pixel_spacing_mm"),
    "operator": ("operator",),
    "machine": ("machine", "us_machine"),
}  # fmt: skip
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
METADATA = tuple(f"metadata{suffix}" for suffix in SUFFIXES)


def corpus_name(table: Path) -> str:
    """Return the name of a table's images in shards: that of its file, or of its folder where every folder has one."""
    path = table.resolve()
    common = path.name in METADATA or path.stem.casefold() == archive.TABLE
    return re.sub(r"[^\w-]+", "_", path.parent.name if common else path.stem)


def read_table(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    outside: bool = False,
    missing: list[str] | None = None,
) -> pd.DataFrame:
    """Read a table of images, with the columns of `COLUMNS` in one form.

    Args:
        path: The table, or a folder: the output of ``data ingest``; with ``metadata.csv`` (or another form), also one
            for each of ``train/``, ``val/`` and ``test/``, as Hugging Face's ``imagefolder`` has; else all image files
            of the folder without metadata, whose splits are known if all are in ``train/``, ``val/`` and ``test/``.
        columns: Our name -> the table's name, for columns without a usual name.
        images: Folder that image paths are relative to; by default the one of the table.
        outside: Whether images may lie outside of that folder.
        missing: Receives the names of images without a file, whose rows are left out; without it they are an error.

    Returns:
        A row for each image, by its name as the table has it (unique). Columns: ``image`` (absolute path), ``caption``
        (tuple of texts, empty if unknown), ``patient`` (the image's own name where unknown), ``split`` ("train", "val",
        "test"), ``plane``, ``brain_plane``, ``operator``, ``machine`` (None where unknown), ``ga_days``, ``hc_mm``,
        ``pixel_size_mm`` (NaN where unknown), then every other column of the table as text.

    Raises:
        ValueError: A value or column cannot be used; the message names file and row.
        FileNotFoundError: The table or an image is missing.
    """
    path = Path(path)
    parts = []
    for file, split in table_files(path):
        raw = _parse(file)
        raw.columns = pd.Index([str(name) for name in raw.columns])
        if fada.is_fada(raw):
            raw = fada.with_captions(raw)
        chosen = _choose_columns(list(raw.columns), file, columns or {})
        table = canonical(raw, file, chosen, {"split": {"": None, **SPLIT_NAMES}})
        # FADA's own columns stay, even where they are mapped: by them `fada.is_fada` recognises the table.
        mapped = () if fada.is_fada(raw) else chosen.values()
        others = [name for name in raw.columns if name not in {*mapped, *table.columns}]
        table = pd.concat([table, raw[others].apply(texts)], axis=1)
        if split is not None and table["split"].isna().all():
            table["split"] = split
        folder = file.parent if file.is_file() else file
        prefix = "" if folder in (path, path.parent) else f"{folder.name}/"
        table.index, names = pd.Index(prefix + table["image"], name="name"), table["image"]
        table["image"] = list(_resolve(names, file, Path(images or folder), outside, missing))
        parts.append(table.dropna(subset="image"))
    table = pd.concat(parts)
    if table.empty and not missing:
        raise ValueError(f"{path}: no rows")
    if unknown := int(table["patient"].isna().sum()):
        some = f"{count(unknown, 'row')} without a patient"
        lacking = "no patient column" if unknown == len(table) else some
        warnings.warn(
            f"{path}: {lacking}; each image counts as a patient of its own, so images of one patient may be in "
            "training and test",
            stacklevel=2,
        )
        table["patient"] = table["patient"].where(table["patient"].notna(), table.index.to_series())
    return table


def table_files(path: Path) -> list[tuple[Path, str | None]]:
    """Return the tables of a path, each with the split that its folder means; a folder of images stands for itself."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such table or folder")
    if path.is_file():
        if path.suffix.casefold() not in SUFFIXES:
            raise ValueError(
                f"{path}: not a table; its name must end with one of {', '.join(SUFFIXES)}"
                + (
                    "; sonodistill data ingest reads DICOM files"
                    if path.suffix.casefold() in (".dcm", "")
                    else ""
                )
            )
        return [(path, None)]
    if (path / archive.REPORT).is_file():  # its contact sheet is no image of a patient
        return [(path / f"{archive.TABLE}.csv", None)]
    own: list[tuple[Path, str | None]]
    own = [(path / name, None) for name in METADATA if (path / name).is_file()]
    split: list[tuple[Path, str | None]] = [
        (folder / name, SPLIT_NAMES[folder.name.casefold()])
        for folder in sorted(path.iterdir())
        for name in METADATA
        if folder.name.casefold() in SPLIT_NAMES and (folder / name).is_file()
    ]
    return own[:1] or split or [(path, None)]


def list_images(folder: Path) -> list[str]:
    """Return the names of all image files below a folder, relative to it, sorted; hidden files do not count."""
    return sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.suffix.casefold() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _parse(path: Path) -> pd.DataFrame:
    """Return the cells as text, lists and numbers (None where empty), indexed by row number for messages."""
    if path.is_dir():
        if found := list_images(path):
            table = pd.DataFrame({"image": found}, dtype=object)
            folders = [name.rpartition("/")[0].partition("/")[0] for name in found]
            if {folder.casefold() for folder in folders} <= SPLIT_NAMES.keys():
                table["split"] = folders
            return table
        raise FileNotFoundError(
            f"{path}: neither images nor a table {METADATA[0]}; of DICOM files, sonodistill data ingest makes both"
        )
    suffix = path.suffix.casefold()
    if suffix not in (".parquet", ".xlsx"):
        return _json_lines(path) if suffix in (".jsonl", ".ndjson") else separated(path)
    try:
        return _parquet(path) if suffix == ".parquet" else _excel(path)
    except PermissionError:
        raise
    except Exception as error:  # of damaged files pyarrow and openpyxl pass on whatever their parsers raise
        raise ValueError(f"{path}: not a readable {suffix[1:]} file ({one_line(error)})") from None


def _parquet(path: Path) -> pd.DataFrame:
    from pyarrow import parquet  # the largest package of all, for one kind of table

    raw = pd.DataFrame(parquet.read_table(path).to_pydict(), dtype=object)
    return raw.set_index(raw.index + 1)


def _excel(path: Path) -> pd.DataFrame:
    """Return the first sheet."""
    cells = pd.read_excel(path, header=None, dtype=object, engine="openpyxl")
    cells = cells.set_index(cells.index + 1).dropna(how="all").dropna(axis="columns", how="all")
    header = ["" if pd.isna(name) else str(name).strip() for name in cells.iloc[0]] if len(cells) else []
    return cells.iloc[1:].set_axis(header, axis=1)


def _json_lines(path: Path) -> pd.DataFrame:
    rows: dict[int, dict[str, Any]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a UTF-8 text file; save it as UTF-8") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows[number] = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, row {number}: not a JSON object ({error})") from None
            if not isinstance(rows[number], dict):
                raise ValueError(f"{path}, row {number}: expected a JSON object")
    return pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)


def _choose_columns(present: list[str], path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """Return our name -> the table's name of every column that is there."""
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise ValueError(f"columns.{unknown[0]}: no such column; one of {', '.join(COLUMNS)}")
    plain = {re.sub(r"[\W_]+", "_", name.casefold()).strip("_"): name for name in reversed(present)}
    chosen = {}
    for ours, usual in COLUMNS.items():
        given = columns.get(ours)
        if given is not None and given not in present:
            given = one_line(repr(given), 80)
            raise ValueError(
                f"{path}: no column {given} (columns.{ours}); it has {one_line(', '.join(present), 200)}"
            )
        found = [given] if given else [plain[name] for name in usual if name in plain]
        if found:
            chosen[ours] = found[0]
    if "image" not in chosen:
        raise ValueError(
            f"{path}: no column of images ({', '.join(COLUMNS['image'][:4])}, ...); --data.columns.image=NAME "
            "(of data and predict: --column=image=NAME) says which it is; it has "
            f"{one_line(', '.join(present), 200) or 'no columns'}"
        )
    return chosen


def _resolve(
    names: pd.Series, table: Path, root: Path, outside: bool, missing: list[str] | None
) -> pd.Series:
    """Return the absolute paths of images by row; None for those that `missing` receives.

    One listing for each folder instead of a look at each file keeps large tables on network drives fast.
    """
    base = Path(os.path.realpath(root))
    # As named -> real path; names of files -> is it a link; names in Unicode's form NFC -> names.
    folders: dict[str, tuple[Path, dict[str, bool], dict[str, str]]] = {}
    paths: dict[Any, str | None] = {}
    first: dict[str, Any] = {}  # path -> row
    absent = []
    for row, name in names.items():
        where, shown = f"{table}, row {row}", one_line(name, 80)
        folder, _, file = name.replace("\\", "/").rpartition("/")
        if file.casefold().endswith((".dcm", ".dicom")):
            raise ValueError(
                f"{where}: {shown} is a DICOM file; sonodistill data ingest writes images and a table from a DICOM "
                "folder (docs/own-data.md)"
            )
        if folder not in folders:
            real = Path(os.path.realpath(root / folder))
            files = _list_files(real)
            folders[folder] = real, files, {unicodedata.normalize("NFC", own): own for own in files}
        real, files, composed = folders[folder]
        if file not in files:  # macOS may write accents as characters of their own
            file = composed.get(unicodedata.normalize("NFC", file), file)
        path = f"{real}/{file}"
        if files.get(file):
            path = os.path.realpath(path)
            real = Path(path).parent
        if not (outside or real == base or real.is_relative_to(base)):
            raise ValueError(
                f"{where}: {shown} is outside of {root}; IMAGES=folder (--images) sets the images' folder, and "
                "--data.outside=true (of data and predict: --outside) allows files elsewhere"
            )
        if file not in files:
            absent.append(f"{shown} (row {row})")
        elif first.setdefault(path, row) != row:
            raise ValueError(
                f"{where}: {name} is also in row {first[path]}; give an image's captions as one list"
            )
        paths[row] = path if file in files else None
    if missing is not None:
        missing += absent
    elif absent:
        raise FileNotFoundError(
            f"{table}: {len(absent)} of {count(len(names), 'image')} missing under {root}: {first_few(absent)}; "
            "IMAGES=folder (--images) sets the folder that the table's paths are relative to"
        )
    return pd.Series(paths, dtype=object)


def _list_files(folder: Path) -> dict[str, bool]:
    """Return the names of a folder's files, and whether each is a link."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries if entry.is_file()}
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return {}
        raise
