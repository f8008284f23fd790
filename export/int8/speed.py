"""Keep an int8 file only where it is worth having: it must be faster than float32 in the same runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.cores import usable_cores
from export.int8.onnx_int8 import grouped_convolution_count
from export.int8.variants import INT8_VARIANTS
from export.latency.interleave import Timing, speed_ratio, time_interleaved
from export.latency.machine import INT8_PRODUCTS, instructions
from export.parity.ledger import DROPPED, FAILED, Row
from export.variants import ENCODER_FILE, Workbench, drop_artifact

RUNTIMES = {"onnx-int8": "onnxruntime", "openvino-int8": "openvino"}
ROUNDS, REPEATS = 7, 5
KEEP = "--keep_slow_int8"


def judge_int8_speed(bench: Workbench, rows: list[Row], *, keep_slow: bool) -> None:
    """Time the int8 files against the float32 one, and delete those that lose or cannot be timed.

    Args:
        bench: The workbench; artifacts of deleted files are taken out, and the ratios are recorded.
        rows: The ledger; every int8 row gets its figure, rows of deleted files become ``DROPPED``.
        keep_slow: Delete nothing.
    """
    judged = {
        row.variant: row
        for row in rows
        if row.variant in INT8_VARIANTS and row.variant in bench.artifacts and row.status != FAILED
    }
    if not judged:
        return
    timings = _timings(bench, list(judged))
    ratios = bench.facts["int8_speed"] = {}
    for name, row in judged.items():
        file = bench.folder / bench.artifacts[name]["file"]
        own, yardstick = timings[name], timings[f"{name} yardstick"]
        broken = own.error or yardstick.error
        if broken:
            speed = f"could not be timed against float32 ({broken})"
        else:
            ratios[name] = speed_ratio(yardstick, own).median
            speed = f"{ratios[name]:.2f} times as fast as float32 in {RUNTIMES[name]} here"
        slow = bool(broken) or ratios[name] < 1
        reason = _why_slow(name, file) if slow and not broken else ""
        verdict = ""
        if slow and keep_slow:
            verdict = f"kept all the same ({KEEP})"
        elif slow:
            verdict = f"kept out for that ({KEEP} keeps it for its size)"
            row.status = DROPPED
            drop_artifact(bench, name)
        row.note = "; ".join(filter(None, [row.note, speed, reason, verdict]))


def _timings(bench: Workbench, names: list[str]) -> dict[str, Timing]:
    specs: dict[str, dict[str, Any]] = {}
    for name in names:
        common = {"backend": RUNTIMES[name], "threads": usable_cores(), "batch": 1, "side": bench.side}
        specs[f"{name} yardstick"] = {**common, "path": str(bench.folder / ENCODER_FILE)}
        specs[name] = {**common, "path": str(bench.folder / bench.artifacts[name]["file"])}
    try:
        return time_interleaved(specs, ROUNDS, REPEATS)
    except (RuntimeError, OSError) as error:  # a runtime's process ended in the middle
        return {name: Timing(spec, error=" ".join(str(error).split())) for name, spec in specs.items()}


def _why_slow(name: str, file: Path) -> str:
    """Say what is known to hold int8 back here; nothing where nothing is known."""
    reasons = []
    grouped = grouped_convolution_count(file)
    if not INT8_VARIANTS[name] and grouped:
        reasons.append(
            f"{grouped} grouped convolutions stay in float32, for which this runtime has no fast int8 kernel"
        )
    found = instructions()
    if found and not INT8_PRODUCTS & set(found):
        reasons.append("this processor has no int8 dot product (VNNI)")
    return f"because {' and '.join(reasons)}" if reasons else ""
