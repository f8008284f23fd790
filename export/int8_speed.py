"""Keep an int8 file only where it is worth having: it must be faster than float32 in the same runtime."""

from __future__ import annotations

import os
from typing import Any

from export.int8_variants import INT8_VARIANTS
from export.latency.interleave import speed_ratio, time_interleaved
from export.parity import DROPPED, FAILED, Row
from export.variants import Workbench

RUNTIMES = {"onnx-int8": "onnxruntime", "openvino-int8": "openvino"}
ROUNDS, REPEATS = 7, 5


def drop_slow_int8(bench: Workbench, rows: list[Row]) -> None:
    """Time the int8 files against the float32 one, and delete those that lose.

    Args:
        bench: The workbench; artifacts of deleted files are taken out, and the ratios are recorded.
        rows: The ledger; rows of deleted files become ``DROPPED`` with the figure.
    """
    judged = {
        row.variant: row for row in rows if row.variant in INT8_VARIANTS and row.variant in bench.artifacts
    }
    specs: dict[str, dict[str, Any]] = {}
    for name, row in judged.items():
        if row.status == FAILED:
            continue
        common = {"backend": RUNTIMES[name], "threads": os.cpu_count() or 1, "batch": 1, "side": bench.side}
        specs[f"{name} yardstick"] = {**common, "path": str(bench.folder / "image_encoder.onnx")}
        specs[name] = {**common, "path": str(bench.folder / bench.artifacts[name]["file"])}
    if not specs:
        return
    timings = time_interleaved(specs, ROUNDS, REPEATS)
    ratios = {}
    for name in [name for name in specs if name in judged]:
        row, own, yardstick = judged[name], timings[name], timings[f"{name} yardstick"]
        if own.error or yardstick.error:
            row.note = own.error or yardstick.error
            continue
        ratios[name] = speed_ratio(yardstick, own).median
        speed = f"{ratios[name]:.2f} times as fast as float32 in {RUNTIMES[name]} here"
        row.note = "; ".join(filter(None, [row.note, speed]))
        if ratios[name] < 1:
            row.status = DROPPED
            row.note += "; kept out for that (--keep_slow_int8 keeps it for its size)"
            (bench.folder / bench.artifacts.pop(name)["file"]).unlink()
    bench.facts["int8_speed"] = ratios
