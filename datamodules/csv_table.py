"""Read the CSV files of public corpora as people really have them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One data row: `values` by column, stripped; `where` is "file, row 7" for messages (1 is the header)."""

    values: dict[str, str]
    where: str

    def name(self, column: str) -> str:
        """Return a column that must not be empty.

        Raises:
            ValueError: It is empty.
        """
        if not self.values[column]:
            raise ValueError(f"{self.where}: {column} is empty")
        return self.values[column]

    def number(self, column: str, *, positive: bool = True) -> float:
        """Parse a column as a number.

        Raises:
            ValueError: It is no number, or not above zero although `positive`.
        """
        text = self.values[column]
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{self.where}: {column} is {text!r}, not a number") from None
        if not value < float("inf") or (positive and value <= 0):
            raise ValueError(f"{self.where}: {column} is {text!r}, expected a positive finite number")
        return value


def read_table(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file.

    A byte-order mark, the separator (``;``, ``,`` or tab, whichever splits the header into most columns),
    blanks around headers and values, the headers' letter case and empty lines do not matter.

    Args:
        path: The file.
        columns: Required columns, spelt as the rows shall name them.

    Raises:
        ValueError: A column is missing, a row has too few values, or the file is not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a UTF-8 text file; save it as CSV (UTF-8)") from None
    lines = text.splitlines()
    header_line = next((line for line in lines if line.strip()), "")
    separator = max(";,\t", key=header_line.count)
    reader = csv.reader(lines, delimiter=separator)
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
