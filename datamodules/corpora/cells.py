"""Cells of tables: read them from a text file, and bring the known columns into one form."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.record import PLAUSIBLE
from models.messages import one_line

Labels = Mapping[str, Mapping[str, str | None]]  # column -> label in lower case -> ours
MISSING_TEXTS = ("", "nan", "null", "none", "na", "n/a", "<na>")
_WEEKS_AND_DAYS = re.compile(r"(\d+) ?[+w] ?([0-6]) ?d?")


def separated(path: Path) -> pd.DataFrame:
    """Read a CSV or TSV file: its stripped cells by header and row number (the file's first line is row 1).

    Accepts a byte-order mark, any of the separators ``;``, ``,`` and tab (the one that splits the header into most
    columns), empty lines, and separators without content at the ends of lines, as Excel writes them. Columns without a
    name, such as notes beside the table, are left out.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            start, first = next(((n, line) for n, line in enumerate(lines, 1) if line.strip()), (1, ""))
            delimiter = max(";,\t", key=re.sub(r'"[^"]*"', "", first).count)
            header = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            rows: dict[int, list[str]] = {}
            for cells in map(_stripped, reader):
                number = reader.line_num + start
                if len(cells) > len(header):
                    raise ValueError(
                        f"{path}, row {number}: {len(cells)} values where the header has {len(header)}; "
                        f'put "..." around a text that has {delimiter!r} in it'
                    )
                if cells:
                    rows[number] = [*cells, *[""] * (len(header) - len(cells))]
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a UTF-8 text file; save it as CSV (UTF-8)") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a readable CSV file ({error})") from None
    table = pd.DataFrame.from_dict(rows, orient="index", columns=header, dtype=object)
    return table.loc[:, [name != "" for name in header]]


def _stripped(cells: list[str]) -> list[str]:
    """Return stripped cells without the empty ones at the end."""
    cells = [cell.strip() for cell in cells]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def canonical(raw: pd.DataFrame, path: Path, chosen: Mapping[str, str], labels: Labels) -> pd.DataFrame:
    """Return the columns that `chosen` names (ours -> the table's) in one form, described at `table.read_table`.

    Args:
        raw: Cells by row number.
        path: The file, for messages.
        chosen: At least ``image``, which stays a name here.
        labels: Of our columns. Any other label is an error, also an empty one.
    """
    if (again := raw.columns.duplicated()).any():
        raise ValueError(f"{path}: two columns are called {one_line(repr(raw.columns[again][0]), 80)}")
    table = pd.DataFrame({"image": texts(raw[chosen["image"]])})
    if (unnamed := table["image"].isna()).any():
        raise ValueError(f"{path}, row {unnamed.idxmax()}: {chosen['image']} is empty")
    nothing = pd.Series([None] * len(raw), index=raw.index, dtype=object)
    captions = raw[chosen["caption"]] if "caption" in chosen else nothing
    table["caption"] = pd.Series([_captions(cell) for cell in captions], index=raw.index, dtype=object)
    for name in ("patient", "split", "plane", "brain_plane", "operator", "machine"):
        table[name] = texts(raw[chosen[name]]) if name in chosen else nothing
    for name, known in labels.items():
        found = table[name].fillna("")
        for row, text in found[~found.str.casefold().isin(known)].items():
            raise _unexpected(path, row, chosen[name], text, f"one of {', '.join(filter(None, known))}")
        ours = [known[text.casefold()] for text in found]
        table[name] = pd.Series(ours, index=raw.index, dtype=object)
    given = {name: texts(raw[chosen[name]]) if name in chosen else nothing for name in PLAUSIBLE}
    numbers = {name: _numbers(cells, name, chosen.get(name, name), path) for name, cells in given.items()}
    table = table.assign(hc_mm=numbers["hc_mm"], pixel_size_mm=numbers["pixel_size_mm"])
    table["ga_days"] = numbers["ga_days"].fillna((7 * numbers["ga_weeks"]).round())
    return table


def _text(cell: Any) -> str | None:
    if not isinstance(cell, str):
        if cell is None or cell != cell:
            return None
        cell = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
    text = cell.strip()
    return None if text.casefold() in MISSING_TEXTS else text


def texts(column: pd.Series) -> pd.Series:
    """Return cells as stripped texts, None where they are empty or say so."""
    return pd.Series([_text(cell) for cell in column], index=column.index, dtype=object)


def _captions(cell: Any) -> tuple[str, ...]:
    """Return the captions of a cell: a list, a text, or a list written as JSON."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):  # else a text such as "[1] fetal head"
            cell = json.loads(cell)
    cells = cell if isinstance(cell, list | tuple) else [cell]
    return tuple(text for text in map(_text, cells) if text is not None)


def _unexpected(path: Path, row: Any, column: str, text: str, expected: str) -> ValueError:
    return ValueError(f"{path}, row {row}: {column} is {one_line(repr(text), 80)}, expected {expected}")


def _numbers(cells: pd.Series, name: str, column: str, path: Path) -> pd.Series:
    """Parse a column of lengths or ages; an implausible value is an error that says which unit it may have."""
    least, largest, below, above = PLAUSIBLE[name]
    values = pd.Series(
        [math.nan if text is None else _number(text, name) for text in cells], index=cells.index
    )
    for row in values.index[cells.notna() & ~values.between(least, largest)]:
        hint = f"; is it in {below if values[row] < least else above}?" if values[row] > 0 else ""
        raise _unexpected(path, row, column, cells[row], f"{name} from {least:g} to {largest:g}{hint}")
    if name == "ga_days" and values.max() <= PLAUSIBLE["ga_weeks"][1]:
        row = values.idxmax()
        raise ValueError(
            f"{path}, row {row}: {column} is {one_line(repr(cells[row]), 80)}, and none is larger; is it in weeks?"
        )
    return values


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
