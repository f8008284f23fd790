"""Read the CSV table of a public corpus and find the image files that it names."""

from __future__ import annotations

import csv
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.pairs.image_reading import IMAGE_SUFFIXES

_SHOWN = 5


@dataclass(frozen=True)
class Row:
    """One data row: stripped values by column, and its place for messages, "file, row 7" (row 1 is the header)."""

    values: dict[str, str]
    where: str

    def text(self, column: str) -> str:
        """Return a value that must not be empty.

        Raises:
            ValueError: It is empty.
        """
        if not self.values[column]:
            raise ValueError(f"{self.where}: {column} is empty")
        return self.values[column]

    def number(self, column: str) -> float:
        """Return a value that must be a positive finite number.

        Raises:
            ValueError: It is not.
        """
        text = self.values[column]
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{self.where}: {column} is {text!r}, not a number") from None
        if not 0 < value < float("inf"):
            raise ValueError(f"{self.where}: {column} is {text!r}, expected a positive finite number")
        return value

    def label(self, column: str, known: Mapping[str, str | None]) -> str | None:
        """Translate a label, in any letter case.

        Raises:
            ValueError: The label is unknown; the message lists the known ones.
        """
        value = self.values[column]
        if value.casefold() not in known:
            raise ValueError(f"{self.where}: {column} is {value!r}, expected one of {list(known)}")
        return known[value.casefold()]


def read_table(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file.

    Accepts a byte-order mark, any of the separators ``;``, ``,`` and tab (the one that splits the header into most
    columns), blanks around headers and values, headers in any letter case, and empty lines.

    Args:
        path: The file.
        columns: Required columns, as the rows shall name them.

    Raises:
        ValueError: A column is missing, a row has too few values, or the file is not text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a UTF-8 text file; save it as CSV (UTF-8)") from None
    header_line = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=max(";,\t", key=header_line.count))
    header = [cell.strip().casefold() for cell in next((row for row in reader if any(row)), [])]
    missing = [column for column in columns if column.casefold() not in header]
    if missing:
        raise ValueError(f"{path}: columns {missing} are missing; the header is {header_line!r}")
    positions = {column: header.index(column.casefold()) for column in columns}
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, row {reader.line_num}"
        if len(cells) <= max(positions.values()):
            raise ValueError(f"{where}: {len(cells)} values where the header has {len(header)}")
        yield Row({column: cells[position].strip() for column, position in positions.items()}, where)


def find_table(root: Path, name: str, corpus: str, remedy: str) -> Path:
    """Return the CSV file `name` in `root` or a direct subfolder of it.

    Raises:
        FileNotFoundError: `root` or the file is missing; the message ends with `remedy`.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{corpus}: folder {root} does not exist; {remedy}")
    for candidate in (root / name, *sorted(root.glob(f"*/{name}"))):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{corpus}: {root} holds no {name}; {remedy}")


def find_images(
    root: Path, names: Iterable[str], folder: str, table: Path, data: str, missing: list[str] | None = None
) -> dict[str, Path]:
    """Map each name of a table, with or without an extension, to its image file.

    `root/folder` is searched first, then everything below `root`, for any image extension in any letter case.

    Args:
        root: Folder of the table.
        names: Names in the table.
        folder: Usual folder of the images.
        table: The table, for messages.
        data: Name of the corpus, for the command in messages.
        missing: Receives the names without a file, which are an error otherwise.

    Raises:
        FileNotFoundError: Images are missing; the message counts them and gives the command that lists all.
        ValueError: A name fits several files.
    """
    wanted = list(dict.fromkeys(names))
    found = _lookup(wanted, _index((root / folder).glob("*")))
    if len(found) < len(wanted):
        found = {**_lookup(wanted, _index(root.rglob("*"))), **found}
    absent = [name for name in wanted if name not in found]
    if missing is not None:
        missing += absent
    elif absent:
        raise FileNotFoundError(
            f"{table}: {len(absent)} of {len(wanted)} images are missing under {root}: "
            f"{first_few(absent)}; {list_command(data, root)}"
        )
    for name, paths in found.items():
        if len(paths) > 1:
            raise ValueError(f"{table}: {name} fits several files, keep one of {[str(p) for p in paths]}")
    return {name: paths[0] for name, paths in found.items()}


def list_command(data: str, root: Path) -> str:
    """Return the part of a message that says how to list all missing images of a corpus."""
    return f"to list all: make check-data DATA={data} ROOT={shlex.quote(str(root))} ARGS=--all"


def first_few(names: list[str]) -> str:
    """Join the first names of a list that may be long."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _lookup(names: list[str], index: dict[str, list[Path]]) -> dict[str, list[Path]]:
    return {name: index[_stem(name)] for name in names if _stem(name) in index}


def _index(paths: Iterable[Path]) -> dict[str, list[Path]]:
    index: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        if path.suffix.casefold() in IMAGE_SUFFIXES:
            index[_stem(path.name)].append(path)
    return index


def _stem(name: str) -> str:
    path = Path(name)
    return (path.stem if path.suffix.casefold() in IMAGE_SUFFIXES else path.name).casefold()
