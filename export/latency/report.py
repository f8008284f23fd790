"""The latency record as Markdown, for the terminal and a comment on a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from export.latency.budgets import FAILED, OVER

Record = Mapping[str, Any]


def markdown(record: Record, ratios_before: Mapping[str, float] | None = None) -> str:
    """Return the report.

    Args:
        record: What `export.latency.session.run_session` returned.
        ratios_before: Ratios to the yardstick by backend from an earlier record, to print beside the new ones. Times
            are not compared: machines differ, and so does their load.
    """
    stages = [
        [name, row["error"]] if "error" in row else [name, *_cells(row)]
        for name, row in record["stages"].items()
    ]
    throughput = [
        [f"{_threads(row['threads'])}, batch {row['batch']}", *_cells(row, "images_per_s", "p50_ms")]
        for row in record["throughput"]
    ]
    watched = [
        [f"{row['device']}, {row['backend']}", *_cells(row, "p50_ms", "p90_ms", "p99_ms", "load_ms")]
        for row in record["coreml_stopwatch"]["rows"]
    ]
    parts = [
        "## Latency",
        _subject(record),
        _backends(record, ratios_before),
        _table(["stage of a camera frame", "p50 ms", "p90", "p95", "p99"], stages),
        _table(["ONNX Runtime", "images/s", "p50 ms a batch"], throughput),
        _live(record),
        _table(["Core ML's own stopwatch", "p50 ms", "p90", "p99", "load ms"], watched) if watched else "",
        _verdicts(record),
        _absent(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; short rows are filled with empty cells."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + [f"| {' | '.join([*row, *[''] * (len(head) - len(row))])} |" for row in rows])


def _cells(row: Record, *keys: str) -> list[str]:
    return [f"{row[key]:.2f}" for key in keys or ("p50_ms", "p90_ms", "p95_ms", "p99_ms")]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _subject(record: Record) -> str:
    machine, model = record["machine"], record["model"]
    peaks = [f"{arithmetic} {rate:.0f} GFLOP/s" for arithmetic, rate in machine["matmul_gflops"].items()]
    cost = "Image tower that cannot be built here, not counted,"
    if "gmacs" in model:
        cost = f"Image tower {model['parameters_m']:.2f} M parameters, {model['gmacs']:.2f} GMACs"
    models = ("onnx", "openvino", "coreml")
    sizes = [f"{name} {size / 1e6:.1f}" for name, size in record["files"].items() if name.startswith(models)]
    text = (
        f"{machine['device']}, {machine['cores']} cores, {machine['threads']} threads; matrix product "
        f"{', '.join(peaks)}. {cost} at {model['side']} x {model['side']}. MB: {', '.join(sizes)}."
    )
    if machine["load_average"] <= machine["cores"]:
        return text
    busy = f"load {machine['load_average']:.1f} on {machine['cores']} cores"
    return f"{text}\n\n**The machine was busy ({busy}): trust the ratios, not the times.**"


def _backends(record: Record, ratios_before: Mapping[str, float] | None) -> str:
    head = ["encode, batch 1", "p50 ms", "p90", "p95", "p99", f"times {record['yardstick']} (quartiles)"]
    head += ["of matmul peak", "cold start ms", "peak MB", "ratio before"]
    rows, known = [], ratios_before or {}
    for name, row in record["backends"].items():
        if "error" in row:
            rows.append([name, row["error"]])
            continue
        ratio = share = "-"
        if "ratio" in row:
            ratio = "{median:.2f} ({low:.2f}-{high:.2f})".format(**row["ratio"])
        if "arithmetic" in row:
            share = f"{row['share_of_matmul_peak']:.0%} ({row['arithmetic']})"
        before = f"{known[name]:.2f}" if name in known else "-"
        facts = [f"{row[key]:.0f}" for key in ("cold_start_ms", "peak_mb")]
        rows.append([name, *_cells(row), ratio, share, *facts, before])
    if ratios_before is None:
        head, rows = head[:-1], [row[: len(head) - 1] for row in rows]
    return _table(head, rows)


def _live(record: Record) -> str:
    rows, lines = [], []
    for scan in record["scenes"]:
        cells = [f"{scan['frames_per_second']:.0f} frames/s, {scan['encoder']}"]
        if "error" in scan:
            rows.append([*cells, scan["error"]])
            continue
        cells += [f"{scan['processed']} of {scan['frames']}", f"{scan['dropped']}"]
        rows.append(cells + [f"{scan[key]:.1f}" for key in ("delay_p50_ms", "delay_p95_ms")])
    for run in record["sustained"]:
        name = f"- {run['encoder']} without a pause"
        if "error" in run:
            lines.append(f"{name}: {run['error']}")
            continue
        lines.append(
            f"{name} for {run['seconds']:.0f} s ({run['calls']} calls): {run['first_fifth_p50_ms']:.2f} ms at the "
            f"start, {run['last_fifth_p50_ms']:.2f} ms at the end, drift {run['drift']:+.1%}."
        )
    table = _table(["live scan, end to end", "processed", "dropped", "delay p50 ms", "p95"], rows)
    return "\n\n".join([table, "\n".join(lines)])


def _verdicts(record: Record) -> str:
    rows = []
    for verdict in record["verdicts"]:
        measured = "-" if verdict["figure"] is None else f"{verdict['figure']:.3g}"
        mark = "**" if verdict["status"] in (OVER, FAILED) else ""
        rows.append([verdict["budget"], measured, f"{mark}{verdict['status']}{mark}", verdict["note"]])
    return _table(["budget", "measured", "verdict", "note"], rows)


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
        lines.append(f"- {watch['status']}: Core ML's own stopwatch ({watch['reason']})")
    return "\n".join(lines)
