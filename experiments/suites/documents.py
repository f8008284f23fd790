"""Tables of README.md and docs/results.md, written between markers from the committed rows.

A table stands between ``<!-- table: DATA KIND -->`` and ``<!-- end of table -->``.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.suites.differences import capacity, differences, texts
from experiments.suites.result_rows import ResultRow
from experiments.suites.table import cells, default_rows, to_markdown
from models.files import write_text

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "docs/results.md")
PLOTS = ("", "-capacity")
MARKED = re.compile(r"(<!-- table: (\S+) (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def document_table(rows: Sequence[ResultRow], preset: str, kind: str) -> str:
    """Return a Markdown table of committed rows: ``scores``, ``differences`` or ``capacity``.

    Only runs without arguments of their own count.
    """
    if kind == "scores":
        found = cells(default_rows(rows)) if rows else pd.DataFrame()
    elif kind == "differences":
        found = texts(differences(default_rows(rows)))
    elif kind == "capacity":
        found = texts(capacity(default_rows(rows, any_student=True)))
    else:
        raise ValueError(f"table: {preset} {kind}: expected scores, differences or capacity")
    if len(found):
        return to_markdown(found.loc[:, [name for name in found if not name.startswith("paper: ")]])
    suite = "capacity" if kind == "capacity" else "main"
    return f"No rows: `make reproduce SUITE={suite} DATA={preset} SEEDS=1,2,3` makes them.\n"


def fill(text: str, rows: Sequence[ResultRow], preset: str) -> str:
    """Return a document with the tables of a data preset replaced."""

    def table(match: re.Match[str]) -> str:
        start, data, kind, end = match.groups()
        return f"{start}{document_table(rows, preset, kind)}{end}" if data == preset else match[0]

    return MARKED.sub(table, text)


def fill_documents(rows: Sequence[ResultRow], preset: str, tables: Path, root: Path = ROOT) -> list[Path]:
    """Replace the tables and plots of a data preset in the documents below `root`, and return the files written.

    Args:
        rows: The committed rows.
        preset: Name of the data preset.
        tables: Folder of `write_tables` with the plots.
        root: Folder of README.md and docs/.
    """
    written = []
    for path in (root / name for name in DOCUMENTS):
        before = path.read_text(encoding="utf-8")
        after = fill(before, rows, preset)
        if after != before:
            write_text(path, after)
            written.append(path)
    plots = [tables / f"{preset}{kind}.png" for kind in PLOTS]
    copies = {plot: root / "docs" / f"results-{plot.name}" for plot in plots if plot.is_file()}
    return [*written, *(Path(shutil.copy(*copy)) for copy in copies.items())]
