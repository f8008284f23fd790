"""Write docs/performance.md's table and the plots of the cost curves from benchmarks/results/*.json.

Usage: python -m benchmarks._table
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks._record import RESULTS, Row, met, number
from export.latency.machine import ALLOCATOR

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- results: written by python -m benchmarks._table -->", "<!-- end of results -->"
HEAD = (
    "| stage | case | measured (10th-90th percentile) | target | beside the limit | note |\n"
    "|---|---|---|---|---|---|"
)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return every record of a folder, by name.

    Raises:
        ValueError: A file holds quick figures, which say nothing about speed, or lacks what later ones hold.
    """
    paths = sorted(folder.glob("*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if record["quick"]:
            raise ValueError(f"{path}: figures of a --quick run; measure it anew")
        lacks = [] if "allocator" in record["machine"] else ["the machine's allocator"]
        lacks += [] if all("rounds" in row for row in record["rows"]) else ["the rows' rounds"]
        if lacks:
            raise ValueError(
                f"{path}: lacks {' and '.join(lacks)}; measure it again: make bench ARGS={path.stem}"
            )
    return records


def allocator_of(record: dict[str, Any]) -> str:
    """Say which settings of glibc's allocator a record was measured with."""
    set_there = record["machine"]["allocator"]
    if set_there and set_there != ALLOCATOR:
        return ", ".join(f"{name}={value}" for name, value in sorted(set_there.items()))
    return "make" if set_there else "default"


def table_line(row: Row) -> str:
    """Return one line of the Markdown table; a missed target says so."""
    sign = "at least" if row["better"] == "higher" else "at most"
    goal = "" if row["target"] is None else f"{sign} {row['target']:g}: "
    value = row["value"]
    if value is None:
        goal += "**not run**" if goal else ""
        return (
            f"| {row['stage']} | {row['case']} | not run: {row['reason']} ({row['measure']}) | {goal} | "
            f"| {row['note']} |"
        )
    if goal:
        goal += "met" if met(row) else f"**missed**{_in_brackets(what_holds_back(row))}"
    spread = ""
    if value["p10"] != value["p90"]:
        spread = f" ({number(value['p10'])}-{number(value['p90'])})"
    limit = "" if row["times_limit"] is None else f"{number(row['times_limit']['median'])} x {row['limit']}"
    measured = f"{number(value['median'])}{spread} {row['measure']}"
    return f"| {row['stage']} | {row['case']} | {measured} | {goal} | {limit} | {row['note']} |"


def what_holds_back(row: Row) -> str:
    """Return the measured reason of a missed target: the row's own, or what its limit would give."""
    if row.get("reason") or row["times_limit"] is None:
        return str(row.get("reason", ""))
    times = row["times_limit"]["median"]
    own = f"it takes {number(times)} x {row['limit']}"
    if row["measure"].startswith("times faster"):
        own += f", which alone would be {number(row['value']['median'] * times)} {row['measure']}"
    return own


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def markdown(records: list[dict[str, Any]]) -> str:
    """Return the table, what was missed, and what it was measured on."""
    rows = [row for record in records for row in record["rows"]]
    missed = [row for row in rows if met(row) is False]
    lines = [HEAD, *(table_line(row) for row in rows), ""]
    absent = [row for row in rows if row["value"] is None and row["target"] is not None]
    if missed or absent:
        count = sum(row["target"] is not None for row in rows)
        lines.append(
            f"Of {count} targets {len(missed)} are missed and {len(absent)} could not be measured here:"
        )
        lines += [""] + [
            f"- {row['stage']}, {row['case']}: {number(row['value']['median'])} {row['measure']}, "
            f"not {row['target']:g}{_in_brackets(what_holds_back(row))}"
            for row in missed
        ]
        lines += [f"- {row['stage']}, {row['case']}: not run: {row['reason']}" for row in absent]
        lines.append("")
    lines += [
        "| results | machine | cores | load before | allocator | torch | commit |",
        "|---|---|---:|---:|---|---|---|",
    ]
    for record in records:
        machine = record["machine"]
        lines.append(
            f"| {record['benchmark']} | {machine['device']} | {machine['cores']} | "
            f"{machine['load_average']:.1f} | {allocator_of(record)} | "
            f"{machine['versions'].get('torch', '')} | "
            f"{str(record['commit'])[:10]}{'-dirty' if str(record['commit']).endswith('dirty') else ''} |"
        )
    return "\n".join(lines)


def plot_curves(rows: list[Row], folder: Path) -> list[Path]:
    """Draw every cost curve with its fit into ``performance-*.png``; return the files."""
    written = []
    for row in rows:
        curve = row.get("curve")
        if not curve:
            continue
        sizes, costs = np.array(curve["sizes"], float), np.array(curve["costs"], float)
        slope = row["value"]["median"]
        factor = np.exp(np.mean(np.log(costs) - slope * np.log(sizes)))
        figure, axes = plt.subplots(figsize=(4.2, 3.2), layout="constrained")
        axes.loglog(sizes, costs, "o", label="measured")
        axes.loglog(sizes, factor * sizes**slope, "-", label=f"{curve['per']}^{slope:.2f}")
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes], rotation=30)
        axes.minorticks_off()
        if costs.max() < 10 * costs.min():  # too narrow for powers of ten
            low, high = axes.get_ylim()
            ticks = np.geomspace(low, high, 5)
            axes.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axes.set_xlabel(curve["per"])
        axes.set_ylabel(curve["unit"])
        axes.set_title(curve["name"])
        axes.legend()
        slug = "".join(c if c.isalnum() else "-" for c in f"{curve['name']}-{curve['per']}").replace(
            "--", "-"
        )
        path = folder / f"performance-{slug}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        written.append(path)
    return written


def write_page(page: Path, results: Path) -> None:
    """Put table and plots between the marks of the page.

    Raises:
        ValueError: The page lacks its marks, or there are no results.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page}: lacks the lines {BEGIN!r} and {END!r}, between which the table goes")
    records = read_results(results)
    if not records:
        raise ValueError(f"{results}: no results yet; run make bench")
    plots = plot_curves([row for record in records for row in record["rows"]], page.parent)
    pictures = "\n".join(f"![{path.stem}]({path.name})" for path in plots)
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    partial = page.with_suffix(".partial")
    body = f"{before}{BEGIN}\n\n{markdown(records)}\n\n{pictures}\n\n{END}{after}"
    partial.write_text(body, encoding="utf-8")
    partial.replace(page)
    print(f"{page.name}: {sum(len(record['rows']) for record in records)} rows, {len(plots)} plots")


if __name__ == "__main__":
    try:
        write_page(PAGE, RESULTS)
    except ValueError as error:
        sys.exit(f"error: {error}")
