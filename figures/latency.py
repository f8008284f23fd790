"""Latency of an export: time per frame by backend, and throughput over batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import BLUE, new_figure, styled


@styled
def latency(record: Mapping[str, Any]) -> Figure:
    """Draw the time per frame of each backend, and throughput over batch sizes.

    Args:
        record: Content of latency.json.
    """
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    left.grid(axis="y", visible=False)
    _backends(left, record)
    _throughput(right, record)
    machine = record["machine"]
    figure.suptitle(f"{machine['device']}, {machine['threads']} threads, batch 1", fontsize=10)
    return figure


def _backends(axes: Axes, record: Mapping[str, Any]) -> None:
    rows = [(name, row) for name, row in record["backends"].items() if "error" not in row]
    rows.sort(key=lambda item: -item[1]["p50_ms"])
    names = [name for name, _ in rows]
    medians = [row["p50_ms"] for _, row in rows]
    tails = [max(0.0, row["p95_ms"] - row["p50_ms"]) for _, row in rows]
    labels = [
        f"{row['p50_ms']:.1f} ms" + (f", {row['ratio']['median']:.2f}x" if "ratio" in row else "")
        for _, row in rows
    ]
    bars = axes.barh(names, medians, xerr=[[0.0] * len(names), tails], color=BLUE, capsize=2)
    axes.bar_label(bars, labels, padding=4, fontsize=8)
    axes.set_xlim(0, 1.45 * max((row["p95_ms"] for _, row in rows), default=1.0))
    axes.set_xlabel("ms per frame: median, line to the 95th percentile")
    axes.set_title(f"encoder (x: times {record['yardstick']})", fontsize=9)


def _throughput(axes: Axes, record: Mapping[str, Any]) -> None:
    rows = record["throughput"]
    for count in sorted({row["threads"] for row in rows}):
        own = [row for row in rows if row["threads"] == count]
        rates = [row["images_per_s"] for row in own]
        axes.plot(
            [row["batch"] for row in own], rates, marker="o", label=f"{count} thread{'s' * (count > 1)}"
        )
    batches = sorted({row["batch"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_ylim(0, 1.1 * max((row["images_per_s"] for row in rows), default=1.0))
    axes.set_xlabel("batch size")
    axes.set_ylabel("images per second")
    axes.set_title("ONNX Runtime float32", fontsize=9)
    axes.legend(fontsize=8)
