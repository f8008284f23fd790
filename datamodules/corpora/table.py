"""Read a user's table of images and captions: CSV, TSV, Excel, JSON Lines, Parquet, or an image folder."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.corpora import fada
from datamodules.corpora.rows import separated
from datamodules.pairs.image_reading import IMAGE_SUFFIXES
from models.messages import first_few, one_line

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
# Column -> least and largest value, and what a value below or above is likely to be.
PLAUSIBLE = {
    "pixel_size_mm": (0.02, 2.0, "centimetres", "micrometres"),
    "hc_mm": (40.0, 450.0, "centimetres", "pixels"),
    "ga_days": (28.0, 315.0, "weeks", "hours"),
    "ga_weeks": (4.0, 45.0, "months", "days"),
}
MISSING_TEXTS = ("", "nan", "null", "none", "na", "n/a", "<na>")
_WEEKS_AND_DAYS = re.compile(r"(\d+) ?[+w] ?([0-6]) ?d?")
METADATA = tuple(f"metadata{suffix}" for suffix in SUFFIXES)


def read_table(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    outside: bool = False,
    missing: list[str] | None = None,
) -> pd.DataFrame:
    """Read a table of images, with the columns of `COLUMNS` in one form.

    Args:
        path: The table, or a folder: with ``metadata.csv`` (or another form), also one for each of ``train/``, ``val/``
            and ``test/``, as Hugging Face's ``imagefolder`` has; else all image files of the folder without metadata.
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
        table = _canonical(_parse(file), file, columns or {})
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
        lacking = "no patient column" if unknown == len(table) else f"{unknown} rows have no patient"
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
        raise FileNotFoundError(f"{path}: no such table or folder; TABLE=path names one")
    if path.is_file():
        if path.suffix.casefold() not in SUFFIXES:
            raise ValueError(f"{path}: not a table; its name must end with one of {', '.join(SUFFIXES)}")
        return [(path, None)]
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
        if file.suffix.casefold() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


def _parse(path: Path) -> pd.DataFrame:
    """Return the cells as text, lists and numbers (None where empty), indexed by row number for messages."""
    if path.is_dir():
        if found := list_images(path):
            return pd.DataFrame({"image": found}, dtype=object)
        raise FileNotFoundError(f"{path}: neither images nor a table {METADATA[0]}")
    suffix = path.suffix.casefold()
    try:
        if suffix == ".parquet":
            raw = _parquet(path)
            return raw.set_index(raw.index + 1)
        if suffix == ".xlsx":
            return _excel(path)
        return _json_lines(path) if suffix in (".jsonl", ".ndjson") else separated(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a UTF-8 text file; save it as UTF-8") from None
    except PermissionError:
        raise
    except (csv.Error, OSError) as error:  # pyarrow raises OSError for damaged data
        raise ValueError(f"{path}: not a readable {suffix[1:]} file ({one_line(error)})") from None


def _parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa  # the largest package of all, for one kind of table
    from pyarrow import parquet

    try:
        return pd.DataFrame(parquet.read_table(path).to_pydict(), dtype=object)
    except pa.ArrowException as error:
        raise OSError(error) from error


def _excel(path: Path) -> pd.DataFrame:
    """Return the first sheet."""
    try:
        cells = pd.read_excel(path, header=None, dtype=object, engine="openpyxl")
    except Exception as error:  # of damaged files openpyxl passes on whatever zip and XML parsers raise
        raise OSError(error) from error
    cells = cells.set_index(cells.index + 1).dropna(how="all")
    header = ["" if pd.isna(name) else str(name).strip() for name in cells.iloc[0]] if len(cells) else []
    return cells.iloc[1:].set_axis(header, axis=1)


def _json_lines(path: Path) -> pd.DataFrame:
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows[number] = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, row {number}: not a JSON object ({error})") from None
        if not isinstance(rows[number], dict):
            raise ValueError(f"{path}, row {number}: expected a JSON object")
    return pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)


def _canonical(raw: pd.DataFrame, path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Rename the columns and bring their values into one form; a row number in the index, other columns as text."""
    raw.columns = pd.Index([str(name) for name in raw.columns])
    if fada.is_fada(raw):
        raw = fada.with_captions(raw)
    chosen = _choose_columns(list(raw.columns), path, columns)
    table = pd.DataFrame(index=raw.index)
    table["image"] = _texts(raw[chosen["image"]])
    unnamed = table.index[table["image"].isna()]
    if len(unnamed):
        raise ValueError(f"{path}, row {unnamed[0]}: {chosen['image']} is empty")
    nothing = pd.Series([None] * len(raw), index=raw.index, dtype=object)
    captions = raw[chosen["caption"]] if "caption" in chosen else nothing
    table["caption"] = pd.Series([_captions(cell) for cell in captions], index=raw.index, dtype=object)
    for name in ("patient", "split", "plane", "brain_plane", "operator", "machine"):
        table[name] = _texts(raw[chosen[name]]) if name in chosen else nothing
    for row, text in table["split"].dropna().items():
        if text.casefold() not in SPLIT_NAMES:
            known = ", ".join(SPLIT_NAMES)
            raise ValueError(
                f"{path}, row {row}: {chosen['split']} is {one_line(repr(text), 80)}, expected one of {known}"
            )
    table["split"] = (
        table["split"].str.casefold().map(SPLIT_NAMES).astype(object).where(table["split"].notna(), None)
    )
    numbers = {
        name: _numbers(_texts(raw[chosen[name]]), name, chosen[name], path)
        for name in PLAUSIBLE
        if name in chosen
    }
    for name in ("ga_days", "hc_mm", "pixel_size_mm"):
        table[name] = numbers.get(name, pd.Series(float("nan"), index=raw.index))
    if "ga_weeks" in numbers:
        table["ga_days"] = table["ga_days"].fillna((7 * numbers["ga_weeks"]).round())
    others = [name for name in raw.columns if name not in {*chosen.values(), *table.columns}]
    return pd.concat([table, raw[others].apply(_texts)], axis=1)


def _choose_columns(present: list[str], path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """Return our name -> the table's name of every column that is there."""
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise ValueError(f"columns.{unknown[0]}: no such column; one of {', '.join(COLUMNS)}")
    if len(set(present)) < len(present):
        twice = next(name for name in present if present.count(name) > 1)
        raise ValueError(f"{path}: two columns are called {one_line(repr(twice), 80)}")
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
            f"{path}: no column of images ({', '.join(COLUMNS['image'][:4])}, ...); --data.columns.image=NAME says "
            f"which it is; it has {one_line(', '.join(present), 200) or 'no columns'}"
        )
    return chosen


def _text(cell: Any) -> str | None:
    if not isinstance(cell, str):
        if cell is None or cell != cell:
            return None
        cell = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
    text = cell.strip()
    return None if text.casefold() in MISSING_TEXTS else text


def _texts(column: pd.Series) -> pd.Series:
    return pd.Series([_text(cell) for cell in column], index=column.index, dtype=object)


def _captions(cell: Any) -> tuple[str, ...]:
    """Return the captions of a cell: a list, a text, or a list written as JSON."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):  # else a text such as "[1] fetal head"
            cell = json.loads(cell)
    cells = cell if isinstance(cell, list | tuple) else [cell]
    return tuple(text for text in map(_text, cells) if text is not None)


def _numbers(cells: pd.Series, name: str, column: str, path: Path) -> pd.Series:
    """Parse a column of lengths or ages; an implausible value is an error that says which unit it may have."""
    least, largest, below, above = PLAUSIBLE[name]
    numbers = {}
    for row, text in cells.items():
        if text is None:
            continue
        value = _number(text, name)
        if not least <= value <= largest:
            hint = f"; is it in {below if value < least else above}?" if value > 0 else ""
            raise ValueError(
                f"{path}, row {row}: {column} is {one_line(repr(text), 80)}, expected {name} from "
                f"{least:g} to {largest:g}{hint}"
            )
        numbers[row] = value
    values = pd.Series(numbers, dtype=float)
    if name == "ga_days" and values.max() <= PLAUSIBLE["ga_weeks"][1]:
        row = values.idxmax()
        raise ValueError(
            f"{path}, row {row}: {column} is {one_line(repr(cells[row]), 80)}, and none is larger; is it in weeks?"
        )
    return values.reindex(cells.index)


def _number(text: str, name: str) -> float:
    """Parse a number, also with a decimal comma, or an age such as "20+3" or "20w3d"; NaN if it is neither."""
    try:
        return float(text.replace(",", ".", 1))
    except ValueError:
        age = _WEEKS_AND_DAYS.fullmatch(text) if name.startswith("ga_") else None
    if age is None:
        return math.nan
    days = 7 * int(age[1]) + int(age[2])
    return days if name == "ga_days" else days / 7


def _resolve(
    names: pd.Series, table: Path, root: Path, outside: bool, missing: list[str] | None
) -> pd.Series:
    """Return the absolute paths of images by row; None for those that `missing` receives.

    One listing for each folder instead of a look at each file keeps large tables on network drives fast.
    """
    base = Path(os.path.realpath(root))
    folders: dict[
        str, tuple[Path, dict[str, bool]]
    ] = {}  # folder as named -> its real path, files -> is it a link
    paths: dict[Any, str | None] = {}
    absent = []
    for row, name in names.items():
        folder, _, file = name.replace("\\", "/").rpartition("/")
        if file.casefold().endswith((".dcm", ".dicom")):
            raise ValueError(
                f"{table}, row {row}: {one_line(name, 80)} is a DICOM file; sonodistill data ingest writes images and "
                "a table from a DICOM folder (docs/own-data.md)"
            )
        if folder not in folders:
            real = Path(os.path.realpath(root / folder))
            folders[folder] = real, _list_files(real)
        real, files = folders[folder]
        path = f"{real}/{file}"
        if files.get(file):
            path = os.path.realpath(path)
            real = Path(path).parent
        if not (outside or real == base or real.is_relative_to(base)):
            raise ValueError(
                f"{table}, row {row}: {one_line(name, 80)} is outside of {root}; IMAGES=folder sets the images' "
                "folder, and --data.outside=true allows files elsewhere"
            )
        paths[row] = path if file in files else None
        if file not in files:
            absent.append(f"{one_line(name, 80)} (row {row})")
    if missing is not None:
        missing += absent
    elif absent:
        raise FileNotFoundError(
            f"{table}: {len(absent)} of {len(names)} images are missing under {root}: {first_few(absent)}; "
            "IMAGES=folder sets the folder that the table's paths are relative to"
        )
    first: dict[str, Any] = {}
    for row, found in paths.items():
        if found is not None and first.setdefault(found, row) != row:
            raise ValueError(
                f"{table}, row {row}: {names[row]} is also in row {first[found]}; give an image's captions as one list"
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
