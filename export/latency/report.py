"""A latency record as Markdown, ready for a pull request's comment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from export.latency.budgets import FAILED, OVER

Record = Mapping[str, Any]


def markdown(record: Record, baseline: Record | None = None) -> str:
    """Return the report.

    Args:
        record: What `run_session` returned.
        baseline: An earlier record, for example the main branch's last one; its ratios are put beside the new
            ones. Times are not compared: machines differ, and so does their load.
    """
    machine, model = record["machine"], record["model"]
    parts = [
        "## Latency",
        f"{machine['device']}, {machine['cores']} cores, {machine['threads']} threads; matrix product "
        f"{_peaks(machine['matmul_gflops'])}. {_cost(model)} at {model['side']} x {model['side']}. {_files(record)}",
        _warning(machine),
        _backends(record, baseline),
        _stages(record),
        _throughput(record),
        _live(record),
        _stopwatch(record),
        _verdicts(record),
        _absent(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _peaks(gflops: Mapping[str, float]) -> str:
    return ", ".join(f"{arithmetic} {rate:.0f} GFLOP/s" for arithmetic, rate in gflops.items())


def _cost(model: Mapping[str, Any]) -> str:
    if "gmacs" not in model:
        return "Image tower that cannot be built here, not counted,"
    return f"Image tower {model['parameters_m']:.2f} M parameters, {model['gmacs']:.2f} GMACs"


def _files(record: Record) -> str:
    sizes = {
        name: size
        for name, size in record["files"].items()
        if name.startswith(("onnx", "openvino", "coreml"))
    }
    return "MB: " + ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items()) + "."


def _warning(machine: Mapping[str, Any]) -> str:
    load = machine.get("load_average")
    if load is None or load <= machine["cores"]:
        return ""
    busy = f"load {load:.1f} on {machine['cores']} cores"
    return f"**The machine was busy ({busy}): trust the ratios, not the times.**"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _times(row: Mapping[str, Any]) -> list[str]:
    return [f"{row[key]:.2f}" for key in ("p50_ms", "p90_ms", "p95_ms", "p99_ms")]


def _ratio(row: Mapping[str, Any]) -> str:
    ratio = row.get("ratio")
    return "-" if ratio is None else f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


def _backends(record: Record, baseline: Record | None) -> str:
    head = ["encode, batch 1", "p50 ms", "p90", "p95", "p99", f"times {record['yardstick']} (quartiles)"]
    head += ["of matmul peak", "cold start ms", "peak MB"] + (["ratio before"] if baseline else [])
    rows = []
    for name, row in record["backends"].items():
        if "error" in row:
            rows.append([name, row["error"], *[""] * (len(head) - 2)])
            continue
        share = "-"
        if "arithmetic" in row:
            share = f"{row['share_of_matmul_peak']:.0%} ({row['arithmetic']})"
        cells = [
            name,
            *_times(row),
            _ratio(row),
            share,
            f"{row['cold_start_ms']:.0f}",
            f"{row['peak_mb']:.0f}",
        ]
        rows.append(cells + ([_before(baseline, name)] if baseline else []))
    return _table(head, rows)


def _before(baseline: Record, name: str) -> str:
    row = baseline["backends"].get(name, {})
    return f"{row['ratio']['median']:.2f}" if "ratio" in row else "-"


def _stages(record: Record) -> str:
    rows = [
        [name, *(_times(row) if "error" not in row else [row["error"], "", "", ""])]
        for name, row in record["stages"].items()
    ]
    return _table(["stage of a camera frame", "p50 ms", "p90", "p95", "p99"], rows)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _throughput(record: Record) -> str:
    rows = [
        [
            f"{_threads(row['threads'])}, batch {row['batch']}",
            f"{row['images_per_s']:.1f}",
            f"{row['p50_ms']:.2f}",
        ]
        for row in record["throughput"]
    ]
    return _table(["ONNX Runtime", "images/s", "p50 ms a batch"], rows)


def _live(record: Record) -> str:
    rows = []
    for scene in record["scenes"]:
        cells = [f"{scene['frames_per_second']:.0f} frames/s, {scene['encoder']}"]
        if "error" in scene:
            rows.append([*cells, scene["error"], "", "", ""])
            continue
        cells += [f"{scene['processed']} of {scene['frames']}", f"{scene['dropped']}"]
        rows.append(cells + [f"{scene[key]:.1f}" for key in ("delay_p50_ms", "delay_p95_ms")])
    table = _table(["live scan, end to end", "processed", "dropped", "delay p50 ms", "p95"], rows)
    return "\n\n".join([table, "\n".join(_sustained(run) for run in record["sustained"])])


def _sustained(run: Mapping[str, Any]) -> str:
    if "error" in run:
        return f"- {run['encoder']} without a break: {run['error']}"
    return (
        f"- {run['encoder']} without a break for {run['seconds']:.0f} s ({run['calls']} calls): "
        f"{run['first_fifth_p50_ms']:.2f} ms at the start, {run['last_fifth_p50_ms']:.2f} ms at the end, "
        f"drift {run['drift']:+.1%}."
    )


def _stopwatch(record: Record) -> str:
    rows = [
        [
            f"{row['device']}, {row['backend']}",
            *(f"{row[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms", "load_ms")),
        ]
        for row in record["coreml_stopwatch"]["rows"]
    ]
    return _table(["Core ML's own stopwatch", "p50 ms", "p90", "p99", "load ms"], rows) if rows else ""


def _verdicts(record: Record) -> str:
    rows = [
        [v["budget"], "-" if v["figure"] is None else f"{v['figure']:.3g}", f"**{v['status']}**", v["note"]]
        if v["status"] in (OVER, FAILED)
        else [v["budget"], "-" if v["figure"] is None else f"{v['figure']:.3g}", v["status"], v["note"]]
        for v in record["verdicts"]
    ]
    return _table(["budget", "measured", "verdict", "note"], rows)


def _absent(record: Record) -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in record["absent"].items():
        reasons.setdefault(reason, []).append(name)
    engine = record["neural_engine"]
    lines = [f"- NOT RUN: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    if engine["status"] == "ok":
        lines.append(f"- Neural Engine: {engine['share']:.0%} of {engine['operations']} operations")
    else:
        lines.append(f"- NOT RUN: share of operations on the Neural Engine ({engine['reason']})")
    watch = record["coreml_stopwatch"]
    if watch["status"] != "ok":
        lines.append(f"- {watch['status']}: Core ML's own stopwatch ({watch['reason']})")
    return "\n".join(lines)
