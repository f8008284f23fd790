"""The table of docs/performance.md, from benchmarks/results/*.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._record import Row
from benchmarks.gpu.stage import GOALS
from export.latency.worker import ALLOCATOR
from figures.gpu import gpu_step_figure
from figures.style import save_png
from models.files import write_text

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
FIGURE = "gpu-step.png"
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
    """Put the table of all stored results between the marks of the page, and a card's figure beside it."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    rows = [Row(**row) for record in records for row in record["rows"]]
    card = next((record for record in records if record["benchmark"] == "gpu"), None)
    if card is None:
        rows += [replace(row, reason="make gpu-check has not run on a card") for row in GOALS.values()]
    targets = [row.met for row in rows if row.target is not None]
    count = f"Of {len(targets)} targets {targets.count(False)} are missed"
    lines = [
        *HEAD, *(row.line() for row in rows), "",
        f"{count} and {targets.count(None)} could not be measured here.", "",
        *MACHINES, *map(machine_line, records),
    ]  # fmt: skip
    if card and (parts := card["facts"].get("parts")):
        figure = gpu_step_figure(parts, f"Full-size step on one {card['machine']['device']}")
        save_png(figure, page.with_name(FIGURE))
        lines += ["", f"![Milliseconds of a full-size step by part]({FIGURE})"]
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    write_text(page, "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{rest.split(END)[1]}"]))
    print(f"{page.name}: {len(rows)} rows")
