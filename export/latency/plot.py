"""The latency record as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BAR = "#3b6ea5"


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw time per frame by backend, and throughput over batch sizes, into a PNG."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _backends(left, record)
    _throughput(right, record)
    machine = record["machine"]
    figure.suptitle(f"{machine['device']}, {machine['threads']} threads, batch 1", fontsize=10)
    figure.savefig(path, dpi=130)


def _backends(axes: Axes, record: Mapping[str, Any]) -> None:
    rows = {name: row for name, row in record["backends"].items() if "error" not in row}
    names = sorted(rows, key=lambda name: -rows[name]["p50_ms"])
    medians = [rows[name]["p50_ms"] for name in names]
    tails = [max(0.0, rows[name]["p95_ms"] - rows[name]["p50_ms"]) for name in names]
    axes.barh(names, medians, xerr=[[0.0] * len(names), tails], color=BAR, capsize=2, error_kw={"lw": 0.8})
    for position, name in enumerate(names):
        times = f", {rows[name]['ratio']['median']:.2f}x" if "ratio" in rows[name] else ""
        axes.annotate(
            f"{medians[position]:.1f} ms{times}",
            (medians[position] + tails[position], position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xlim(0, 1.45 * max((m + t for m, t in zip(medians, tails, strict=True)), default=1.0))
    axes.set_xlabel("ms a frame: median, line to the 95th percentile")
    axes.set_title(f"encoder (x: times {record['yardstick']})", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _throughput(axes: Axes, record: Mapping[str, Any]) -> None:
    threads = sorted({row["threads"] for row in record["throughput"]})
    for count in threads:
        rows = [row for row in record["throughput"] if row["threads"] == count]
        rates = [row["images_per_s"] for row in rows]
        axes.plot(
            [row["batch"] for row in rows], rates, marker="o", label=f"{count} thread{'s' * (count > 1)}"
        )
    batches = sorted({row["batch"] for row in record["throughput"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_ylim(0, 1.1 * max((row["images_per_s"] for row in record["throughput"]), default=1.0))
    axes.set_xlabel("batch size")
    axes.set_ylabel("images a second")
    axes.set_title("ONNX Runtime float32", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
