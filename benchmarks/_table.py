"""The table of docs/performance.md, from benchmarks/results/*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks._record import Row
from export.latency.worker import ALLOCATOR
from models.files import write_text

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- results: written by make bench -->", "<!-- end of results -->"
HEAD = (
    "| stage | case | measured (10th-90th percentile) | target | beside the limit | note |",
    "|---|---|---|---|---|---|",
)
MACHINES = (
    "| results | machine | cores | load before | allocator | torch | commit |",
    "|---|---|---:|---:|---|---|---|",
)


def machine_line(record: dict[str, Any]) -> str:
    """Return the line of a record in the table of machines."""
    machine, commit, allocator = record["machine"], str(record["commit"]), record["machine"]["allocator"]
    named = ", ".join(f"{variable}={value}" for variable, value in allocator.items())
    cells = [
        record["benchmark"], machine["device"], machine["cores"], f"{machine['load_average']:.1f}",
        "make" if allocator == ALLOCATOR else named or "default", machine["versions"]["torch"],
        commit[:10] + ("-dirty" if commit.endswith("dirty") else ""),
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def write_page(page: Path, results: Path) -> None:
    """Put the table of all stored results between the marks of the page."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    rows = [Row(**row) for record in records for row in record["rows"]]
    targets = [row.met for row in rows if row.target is not None]
    count = f"Of {len(targets)} targets {targets.count(False)} are missed"
    lines = [
        *HEAD, *(row.line() for row in rows), "",
        f"{count} and {targets.count(None)} could not be measured here.", "",
        *MACHINES, *map(machine_line, records),
    ]  # fmt: skip
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    write_text(page, "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{rest.split(END)[1]}"]))
    print(f"{page.name}: {len(rows)} rows")
