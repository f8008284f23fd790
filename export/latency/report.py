"""The latency record as Markdown, for the terminal and a comment on a pull request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from export.latency.budgets import NOT_DECIDABLE, OVER
from export.latency.coreml_tools import FAILED
from export.parity.ledger import markdown_table

Record = Mapping[str, Any]
PERCENTILES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")


def markdown(record: Record, ratios_before: Mapping[str, float] | None = None) -> str:
    """Return the report.

    Args:
        record: What `export.latency.session.run_session` returned.
        ratios_before: Ratios to the reference by backend from an earlier record, to print beside the new ones. Times
            are not compared: machines differ, and so does their load.
    """
    stages = [[name, *_cells(row, *PERCENTILES)] for name, row in record["stages"].items()]
    throughput = [
        [f"threads {row['threads']}, batch {row['batch']}", *_cells(row, "images_per_s", "p50_ms")]
        for row in record["throughput"]
    ]
    watched = [
        [f"{row['device']}, {row['backend']}", *_cells(row, "p50_ms", "p90_ms", "p99_ms", "load_ms")]
        for row in record["coreml_stopwatch"]["rows"]
    ]
    verdicts = [
        [
            verdict["budget"],
            "-" if verdict["figure"] is None else f"{verdict['figure']:.3g}",
            f"**{verdict['status']}**"
            if verdict["status"] in (OVER, FAILED, NOT_DECIDABLE)
            else verdict["status"],
            verdict["note"],
        ]
        for verdict in record["verdicts"]
    ]
    parts = [
        "## Latency",
        _subject(record),
        _backends(record, ratios_before),
        markdown_table(["stage of a camera frame", "p50 ms", "p90", "p95", "p99"], stages),
        markdown_table(["ONNX Runtime", "images/s", "p50 ms a batch"], throughput),
        _live(record),
        markdown_table(["MLModelBenchmarker", "p50 ms", "p90", "p99", "load ms"], watched) if watched else "",
        markdown_table(["budget", "measured", "verdict", "note"], verdicts),
        _absent(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cells(row: Record, *keys: str) -> list[str]:
    return [row["error"]] if "error" in row else [f"{row[key]:.2f}" for key in keys]


def _subject(record: Record) -> str:
    machine, model = record["machine"], record["model"]
    peaks = [f"{arithmetic} {rate:.0f} GFLOP/s" for arithmetic, rate in machine["matmul_gflops"].items()]
    cost = "Image tower that cannot be built here, not counted,"
    if "gmacs" in model:
        cost = f"Image tower {model['parameters_m']:.2f} M parameters, {model['gmacs']:.2f} GMACs"
    models = ("onnx", "openvino", "litert", "coreml")
    sizes = [f"{name} {size / 1e6:.1f}" for name, size in record["files"].items() if name.startswith(models)]
    text = (
        f"{machine['device']}, {machine['cores']} cores, {machine['threads']} threads; matrix product of one thread "
        f"{', '.join(peaks)}. {cost} at {model['side']} x {model['side']}. MB: {', '.join(sizes)}."
    )
    if machine["load_average"] <= machine["cores"]:
        return text
    busy = f"load {machine['load_average']:.1f} on {machine['cores']} cores"
    return f"{text}\n\n**The machine was busy ({busy}): trust the ratios, not the times.**"


def _backends(record: Record, ratios_before: Mapping[str, float] | None) -> str:
    head = ["encode, batch 1", "p50 ms", "p90", "p95", "p99", "one thread, CPU ms"]
    head += [f"times {record['reference']} (quartiles)", "of matmul peak", "cold start ms", "peak MB"]
    rows = []
    for name, row in record["backends"].items():
        cells = [name, *_cells(row, *PERCENTILES)]
        if "error" not in row:
            ratio, share = row.get("ratio"), row.get("share_of_matmul_peak")
            cells += [f"{row['cpu_ms']:.2f}" if "cpu_ms" in row else "-"]
            cells += ["{median:.2f} ({low:.2f}-{high:.2f})".format(**ratio) if ratio else "-"]
            cells += [f"{share:.0%} ({row['arithmetic']})" if share is not None else "-"]
            cells += [f"{row[key]:.0f}" for key in ("cold_start_ms", "peak_mb")]
            if ratios_before is not None:
                cells.append(f"{ratios_before[name]:.2f}" if name in ratios_before else "-")
        rows.append(cells)
    return markdown_table(head if ratios_before is None else [*head, "ratio before"], rows)


def _live(record: Record) -> str:
    rows = []
    for scan in record["live_scans"]:
        cells = [f"{scan['frames_per_second']:.0f} frames/s, {scan['encoder']}"]
        if "error" not in scan:
            cells += [f"{scan['processed']} of {scan['frames']}", str(scan["dropped"])]
        rows.append(cells + _cells(scan, "delay_p50_ms", "delay_p95_ms"))
    lines = [
        f"- {run['encoder']} without a pause: {run['error']}"
        if "error" in run
        else f"- {run['encoder']} without a pause for {run['seconds']:.0f} s ({run['calls']} calls): "
        f"{run['first_fifth_p50_ms']:.2f} ms at the start, {run['last_fifth_p50_ms']:.2f} ms at the end, "
        f"drift {run['drift']:+.1%}."
        for run in record["sustained"]
    ]
    head = ["live scan, end to end", "processed", "dropped", "delay p50 ms", "p95"]
    return f"{markdown_table(head, rows)}\n\n" + "\n".join(lines)


def _absent(record: Record) -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in record["absent"].items():
        reasons.setdefault(reason, []).append(name)
    lines = [f"- NOT RUN: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    engine, watch = record["neural_engine"], record["coreml_stopwatch"]
    if engine["status"] == "ok":
        lines.append(f"- Neural Engine: {engine['share']:.0%} of {engine['operations']} operations")
    else:
        lines.append(f"- NOT RUN: share of operations on the Neural Engine ({engine['reason']})")
    if watch["status"] != "ok":
        lines.append(f"- {watch['status']}: MLModelBenchmarker ({watch['reason']})")
    return "\n".join(lines)
