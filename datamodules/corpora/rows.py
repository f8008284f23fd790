"""Read the CSV table of a public corpus and find the image files that it names."""

from __future__ import annotations

import csv
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from datamodules.pairs.image_reading import IMAGE_SUFFIXES
from models.messages import first_few, one_line


@dataclass(frozen=True)
class Row:
    """One data row: stripped values by column, and its place for messages, "file, row 7" (row 1 is the header)."""

    values: dict[str, str]
    where: str

    def text(self, column: str) -> str:
        """Return a value that must not be empty."""
        if not self.values[column]:
            raise ValueError(f"{self.where}: {column} is empty")
        return self.values[column]

    def number(self, column: str) -> float:
        """Return a value that must be a positive finite number."""
        text = self.values[column]
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ValueError(
                f"{self.where}: {column} is {one_line(repr(text), 80)}, expected a positive finite number"
            )
        return value

    def label(self, column: str, known: Mapping[str, str | None]) -> str | None:
        """Translate a label, in any letter case, that must be one of the `known`."""
        value = self.values[column]
        if value.casefold() not in known:
            raise ValueError(
                f"{self.where}: {column} is {one_line(repr(value), 80)}, expected one of {list(known)}"
            )
        return known[value.casefold()]


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file; `columns` are those required, as the rows shall name them, in any letter case."""
    try:
        table = separated(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a UTF-8 text file; save it as CSV (UTF-8)") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a readable CSV file ({error})") from None
    header = [name.casefold() for name in table.columns]
    missing = [column for column in columns if column.casefold() not in header]
    if missing:
        raise ValueError(f"{path}: columns {missing} are missing; the header is {list(table.columns)}")
    places = [header.index(column.casefold()) for column in columns]
    for number, cells in zip(table.index, table.to_numpy(), strict=True):
        values = {column: cells[place].strip() for column, place in zip(columns, places, strict=True)}
        yield Row(values, f"{path}, row {number}")


def separated(path: Path) -> pd.DataFrame:
    """Read a CSV or TSV file: its cells as text, under a stripped header, by row number (the header is row 1).

    Accepts a byte-order mark, any of the separators ``;``, ``,`` and tab (the one that splits the header into most
    columns), and empty lines.
    """
    with path.open(encoding="utf-8-sig", newline="") as lines:
        first = next((line for line in lines if line.strip()), "")
        delimiter = max(";,\t", key=first.count)
        header = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        rows: dict[int, list[str]] = {}
        for cells in reader:
            number = reader.line_num + 1
            if len(cells) > len(header):
                raise ValueError(
                    f"{path}, row {number}: {len(cells)} values where the header has {len(header)}; "
                    f'put "..." around a text that has {delimiter!r} in it'
                )
            if any(cell.strip() for cell in cells):
                rows[number] = [*cells, *[""] * (len(header) - len(cells))]
    return pd.DataFrame.from_dict(rows, orient="index", columns=header, dtype=object)


def find_table(root: Path, name: str, corpus: str, remedy: str) -> Path:
    """Return the CSV file `name` in `root` or a direct subfolder of it; an error ends with `remedy`."""
    if not root.is_dir():
        raise FileNotFoundError(f"{corpus}: folder {root} does not exist; {remedy}")
    for candidate in (root / name, *sorted(root.glob(f"*/{name}"))):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{corpus}: {root} holds no {name}; {remedy}")


def find_images(
    table: Path, names: Collection[str], folder: str, corpus: str, missing: list[str] | None = None
) -> dict[str, Path]:
    """Map each name of a table, with or without an extension, to its image file.

    `folder` beside the table is searched first, then everything beside it, for any image extension in any letter case.
    `missing` receives the names without a file; otherwise an error counts them and gives the command of `corpus` that
    lists all. A name that fits several files is a ValueError.
    """
    root = table.parent
    found: dict[str, list[Path]] = {}
    for paths in ((root / folder).glob("*"), root.rglob("*")):
        if len(found) < len(names):
            index = defaultdict(list)
            for path in sorted(paths):
                if path.suffix.casefold() in IMAGE_SUFFIXES:
                    index[_stem(path.name)].append(path)
            found = {**{name: index[_stem(name)] for name in names if _stem(name) in index}, **found}
    absent = [name for name in names if name not in found]
    if missing is not None:
        missing += absent
    elif absent:
        few = first_few([one_line(name, 80) for name in absent])
        raise FileNotFoundError(
            f"{table}: {len(absent)} of {len(names)} images are missing under {root}: {few}; "
            f"to list all: make check-data DATA={corpus} ROOT={shlex.quote(str(root))} ARGS=--all"
        )
    for name, several in found.items():
        if len(several) > 1:
            raise ValueError(
                f"{table}: {one_line(name, 80)} fits several files, keep one of {[str(p) for p in several]}"
            )
    return {name: several[0] for name, several in found.items()}


def _stem(name: str) -> str:
    path = Path(name)
    return (path.stem if path.suffix.casefold() in IMAGE_SUFFIXES else path.name).casefold()
