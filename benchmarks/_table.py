"""Write the table of docs/performance.md and the plots of the cost curves from benchmarks/results/*.json.

Usage: python -m benchmarks._table
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks._record import RESULTS, Record, Row, met, number, reason_of, table_line
from export.latency.worker import ALLOCATOR
from models.files import atomic, write_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- results: written by python -m benchmarks._table -->", "<!-- end of results -->"
HEAD = (
    "| stage | case | measured (10th-90th percentile) | target | beside the limit | note |",
    "|---|---|---|---|---|---|",
)
MACHINES = (
    "| results | machine | cores | load before | allocator | torch | commit |",
    "|---|---|---:|---:|---|---|---|",
)


def read_results(folder: Path) -> list[Record]:
    """Return every record of a folder, by name.

    Raises:
        ValueError: There are none, or a file holds the figures of a ``--quick`` run.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ValueError(f"{folder}: no results yet; run make bench")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if record["quick"]:
            raise ValueError(
                f"{path}: figures of a --quick run; measure it again: make bench ARGS={path.stem}"
            )
    return records


def machine_line(record: Record) -> str:
    """Return the line of a record in the table of machines."""
    machine, commit = record["machine"], str(record["commit"])
    allocator = machine["allocator"]
    name = {(): "default", tuple(sorted(ALLOCATOR.items())): "make"}.get(tuple(sorted(allocator.items())))
    name = name or ", ".join(f"{variable}={value}" for variable, value in sorted(allocator.items()))
    commit = commit[:10] + ("-dirty" if commit.endswith("dirty") else "")
    return (
        f"| {record['benchmark']} | {machine['device']} | {machine['cores']} | {machine['load_average']:.1f} | "
        f"{name} | {machine['versions'].get('torch', '')} | {commit} |"
    )


def markdown(records: list[Record]) -> str:
    """Return the table, the missed targets, and the machines."""
    rows = [row for record in records for row in record["rows"]]
    targets = [row for row in rows if row["target"] is not None]
    missed = [row for row in rows if met(row) is False]
    absent = [row for row in targets if row["value"] is None]
    lines = [*HEAD, *map(table_line, rows), ""]
    if missed or absent:
        count = f"{len(missed)} are missed and {len(absent)} could not be measured here"
        lines += [f"Of {len(targets)} targets {count}:", ""]
        lines += [
            f"- {row['stage']}, {row['case']}: {number(row['value']['median'])} {row['measure']}, "
            f"not {row['target']:g}{reason_of(row)}"
            for row in missed
        ]
        lines += [f"- {row['stage']}, {row['case']}: not run: {row['reason']}" for row in absent] + [""]
    return "\n".join([*lines, *MACHINES, *map(machine_line, records)])


def plot_curve(row: Row, folder: Path) -> Path:
    """Draw a cost curve with its fit into ``performance-NAME.png`` and return the file."""
    curve, slope = row["curve"], row["value"]["median"]
    sizes, costs = np.array(curve["sizes"], float), np.array(curve["costs"], float)
    fitted = np.exp(np.mean(np.log(costs) - slope * np.log(sizes))) * sizes**slope
    drawing = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = drawing.subplots()
    axes.loglog(sizes, costs, "o", label="measured")
    axes.loglog(sizes, fitted, "-", label=f"{curve['per']}^{slope:.2f}")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes], rotation=30)
    axes.minorticks_off()
    if costs.max() < 10 * costs.min():  # too narrow for powers of ten
        ticks = np.geomspace(*axes.get_ylim(), 5)
        axes.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set(xlabel=curve["per"], ylabel=curve["unit"], title=curve["name"])
    axes.legend()
    path = folder / f"performance-{re.sub('[^A-Za-z0-9]+', '-', curve['name'])}-{curve['per']}.png"
    with atomic(path) as partial:
        drawing.savefig(partial, dpi=110)
    return path


def write_page(page: Path, results: Path) -> None:
    """Put table and plots between the marks of the page.

    Raises:
        ValueError: The page lacks its marks, or there are no results.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page}: lacks the lines {BEGIN!r} and {END!r}, which enclose the table")
    records = read_results(results)
    curves = [row for record in records for row in record["rows"] if row.get("curve")]
    pictures = "\n".join(
        f"![{path.stem}]({path.name})" for path in (plot_curve(row, page.parent) for row in curves)
    )
    before, rest = text.split(BEGIN)
    write_text(page, f"{before}{BEGIN}\n\n{markdown(records)}\n\n{pictures}\n\n{END}{rest.split(END)[1]}")
    print(f"{page.name}: {sum(len(record['rows']) for record in records)} rows, {len(curves)} plots")


if __name__ == "__main__":
    try:
        write_page(PAGE, RESULTS)
    except ValueError as error:
        sys.exit(f"error: {error}")
