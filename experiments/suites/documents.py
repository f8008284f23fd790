"""Tables of README.md and docs/results.md, written between markers from the committed rows.

A table stands between ``<!-- table: DATA KIND -->`` and ``<!-- end of table -->``. Arguments behind KIND choose
the runs of a suite with these ARGS; without any, those without arguments.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from experiments.paper import SUITES
from experiments.suites.differences import capacity, differences, texts
from experiments.suites.result_rows import ResultRow
from experiments.suites.table import cells, rows_with, to_markdown
from models.files import write_text

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "docs/results.md")
PLOTS = ("", "-capacity")
KINDS = (
    "scores", "differences", "controls", "controls-differences", "repulsion", "repulsion-differences", "capacity",
)  # fmt: skip
MARKED = re.compile(r"(<!-- table: (\S+) (\S+)((?: \S+)*) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def document_table(
    rows: Sequence[ResultRow],
    compared: Callable[[tuple[str, ...]], pd.DataFrame],
    preset: str,
    kind: str,
    arguments: tuple[str, ...],
) -> str:
    """Return a Markdown table of committed rows.

    Args:
        rows: The rows of the data preset.
        compared: Returns the differences between methods of the runs with these arguments.
        preset: Name of the data preset.
        kind: ``scores`` or ``differences`` of the main and ablation suites, the same of the suites of controls and of
            repulsion (``controls``, ``controls-differences``, and so on), or ``capacity``.
        arguments: Arguments of the runs, as the suite was given them.
    """
    if kind not in KINDS:
        raise ValueError(f"table: {preset} {kind}: expected {', '.join(KINDS)}")
    suite = next((name for name in SUITES if kind.startswith(name)), "main")
    if kind == "capacity":
        found = texts(capacity(rows_with(rows, arguments, any_student=True)))
    else:
        rows = rows_with(rows, arguments)
        names = {*SUITES[suite], *(SUITES["ablation"] if suite == "main" else ())}
        own = [row for row in rows if row["experiment"] in names]
        if kind.endswith("differences"):
            # All of them, those of the other suites included, make one family for Holm's correction.
            every = compared(arguments)
            found = texts(every[every[["reference", "experiment"]].isin(names).all(axis=1)])
        else:
            found = cells(own) if own else pd.DataFrame()
    if len(found):
        return to_markdown(found.loc[:, [name for name in found if not name.startswith("paper: ")]])
    given = f' ARGS="{" ".join(arguments)}"' if arguments else ""
    return f"No rows: `make reproduce SUITE={suite} DATA={preset} SEEDS=1,2,3{given}` makes them.\n"


def fill(text: str, rows: Sequence[ResultRow], preset: str) -> str:
    """Return a document with the tables of a data preset replaced."""

    @cache  # a bootstrap, which several tables show parts of
    def compared(arguments: tuple[str, ...]) -> pd.DataFrame:
        return differences(rows_with(rows, arguments))

    def table(match: re.Match[str]) -> str:
        start, data, kind, arguments, end = match.groups()
        if data != preset:
            return match[0]
        return f"{start}{document_table(rows, compared, preset, kind, tuple(arguments.split()))}{end}"

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
