"""Latency of an export: time per frame by backend, and throughput over batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import BLUE, new_figure, styled


@styled
def latency_figure(record: Mapping[str, Any]) -> Figure:
    """Draw the content of latency.json."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _backends(left, record)
    _throughput(right, record)
    machine = record["machine"]
    figure.suptitle(f"{machine['device']}, {machine['threads']} threads, batch 1", fontsize=10)
    return figure


def _backends(axes: Axes, record: Mapping[str, Any]) -> None:
    rows = {name: row for name, row in record["backends"].items() if "error" not in row}
    names = sorted(rows, key=lambda name: -rows[name]["p50_ms"])
    medians, highest = ([rows[name][key] for name in names] for key in ("p50_ms", "p95_ms"))
    tails = [max(0.0, high - median) for median, high in zip(medians, highest, strict=True)]
    ratios = [f", {rows[name]['ratio']['median']:.2f}x" if "ratio" in rows[name] else "" for name in names]
    labels = [f"{median:.3g} ms{ratio}" for median, ratio in zip(medians, ratios, strict=True)]
    bars = axes.barh(names, medians, xerr=[[0.0] * len(names), tails], color=BLUE, capsize=2)
    axes.bar_label(bars, labels, padding=4, fontsize=8)
    axes.grid(axis="y", visible=False)
    # Backends differ by factors: on a linear axis one slow backend flattens all others.
    axes.set_xscale("log")
    left, right = 0.6 * min(medians, default=1.0), max(highest, default=1.0)
    axes.set(
        xlim=(left, right * (right / left) ** 0.4),  # room for the labels
        xlabel="ms per frame: median, line to the 95th percentile",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(f"encoder (x: times {record['reference']}, one thread)", fontsize=9)


def _throughput(axes: Axes, record: Mapping[str, Any]) -> None:
    rows = [row for row in record["throughput"] if "error" not in row]
    for count in sorted({row["threads"] for row in rows}):
        own = [(row["batch"], row["images_per_s"]) for row in rows if row["threads"] == count]
        axes.plot(*zip(*own, strict=True), marker="o", label=f"{count} thread{'s' * (count > 1)}")
    batches = sorted({row["batch"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    highest = max((row["images_per_s"] for row in rows), default=1.0)
    axes.set(ylim=(0, 1.1 * highest), xlabel="batch size", ylabel="images per second")
    axes.set_title("ONNX Runtime float32", fontsize=9)
    axes.legend(fontsize=8)
