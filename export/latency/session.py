"""One latency run: what is timed, in which order, and the record that comes out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.latency.backends import COREML_UNITS, available, neural_engine_share
from export.latency.budgets import NOT_APPLICABLE, Verdict, check_absolute, check_budgets
from export.latency.coreml_stopwatch import MAC, stopwatch
from export.latency.interleave import Timing, speed_ratio, time_interleaved
from export.latency.machine import (
    INT8_PRODUCTS,
    device_name,
    image_cost,
    instructions,
    machine_facts,
    matmul_gflops,
)
from export.latency.worker import Worker
from export.manifest import Export
from models import DualEncoder, fused_copy

Spec = dict[str, Any]
INT8 = {"onnx-int8": "onnxruntime", "openvino-int8": "openvino"}
FLOAT32 = "float32"
ARITHMETIC = {"openvino-bf16": "bfloat16", **dict.fromkeys(INT8, "int8")}  # of all others: float32
STAGES = ("preprocess", "heads", "end-to-end")


@dataclass(frozen=True)
class Protocol:
    """How long and how often.

    Attributes:
        rounds: Turns.
        repeats: Calls a backend and turn.
        batches: Batch sizes of the throughput table.
        sustained_s: Seconds of uninterrupted calls.
        frames_per_second: Rates of the live scans.
        scene_s: Seconds of each.
    """

    rounds: int
    repeats: int
    batches: list[int]
    sustained_s: float
    frames_per_second: list[float]
    scene_s: float


def settle_protocol(budgets: Mapping[str, Any], short: bool) -> Protocol:
    """Take the protocol from the budgets' file; `short` is the one for CI."""
    values = dict(budgets["ci" if short else "protocol"])
    rates = [float(rate) for rate in budgets["scene"]["frames_per_second"]]
    seconds = float(values.pop("scene_s", budgets["scene"]["seconds"]))
    return Protocol(**values, frames_per_second=rates, scene_s=seconds)


def backend_specs(export: Export, threads: int) -> tuple[dict[str, Spec], dict[str, str]]:
    """Say which backends can be timed with one frame at a time.

    Returns:
        Name -> spec, and name -> reason for those that cannot run here.
    """
    side = export.preprocessing.image_size
    recipe = export.manifest["source"]["recipe"]
    common = {"threads": threads, "batch": 1, "side": side}
    specs = {name: {"backend": name, "recipe": recipe, **common} for name in ("torch-eager", "torch-fused")}
    absent = {}
    artifacts = export.manifest["artifacts"]
    for name, state in available().items():
        artifact = "coreml-fp16" if name in COREML_UNITS else "onnx-fp32"
        if state != "yes" or artifact not in artifacts:
            absent[name] = state if state != "yes" else f"the export has no {artifact}"
            continue
        specs[name] = {"backend": name, "path": str(export.artifact(artifact).resolve()), **common}
    for name, backend in INT8.items():
        if name in artifacts and backend in specs:
            specs[name] = {**specs[backend], "path": str(export.artifact(name).resolve())}
        else:
            absent[name] = "not in this export" if backend in specs else absent[backend]
    return specs, absent


def run_session(
    export: Export,
    model: DualEncoder,
    budgets: Mapping[str, Any],
    protocol: Protocol,
    device: str | None,
    folder: Path,
    iphone: tuple[str, str | None] | None = None,
) -> dict[str, Any]:
    """Time everything and hold it against the budgets.

    Args:
        export: The export.
        model: The architecture that is exported, in eval mode; its weights do not matter.
        budgets: Content of the budgets' file.
        protocol: How long and how often.
        device: Name of the machine, to override its own.
        folder: Scratch folder for graphs with an open batch.
        iphone: Name of an iPhone that is attached to this Mac, and the team that signs the runner app.

    Returns:
        The record, of primitives alone.
    """
    threads = os.cpu_count() or 1
    begun = time.monotonic()
    package = export.artifact("coreml-fp16") if "coreml-fp16" in export.manifest["artifacts"] else None
    coreml = stopwatch(package, *(iphone or (None, None)))
    specs, absent = backend_specs(export, threads)
    side = export.preprocessing.image_size
    stages = _stage_specs(export, threads, side)
    products = matmul_specs(threads)
    timings = time_interleaved({**specs, **stages, **products}, protocol.rounds, protocol.repeats)
    yardstick = timings[budgets["yardstick"]]
    if yardstick.error:
        raise ValueError(f"latency: the yardstick cannot be timed: {yardstick.error}")
    cost = image_cost(fused_copy(model))
    peaks = matmul_peaks({name: timings[name] for name in products})
    rows = {name: _row(name, timings[name], yardstick, cost["gmacs"], peaks) for name in specs}
    sweep = throughput(model, protocol, folder, side)
    stream = {"backend": "end-to-end", **{k: v for k, v in stages["end-to-end"].items() if k != "backend"}}
    scenes, drift = _live(stream, specs["onnxruntime"], protocol)
    ratios = {name: row["ratio"]["median"] for name, row in rows.items() if "ratio" in row}
    medians = {name: row["p50_ms"] for name, row in rows.items() if "p50_ms" in row}
    name = device or device_name()
    reasons = absent | what_holds_back(rows, instructions())
    errors = {key: row["error"] for key, row in rows.items() if "error" in row}
    verdicts = check_budgets(budgets, ratios, medians, name, scenes, reasons, errors)
    return {
        "machine": machine_facts() | {"device": name, "matmul_gflops": peaks, "threads": threads},
        "model": {**cost, "source": export.manifest["source"], "side": side},
        "files": {key: entry["bytes"] for key, entry in export.manifest["artifacts"].items()},
        "protocol": asdict(protocol),
        "yardstick": budgets["yardstick"],
        "backends": rows,
        "absent": absent,
        "stages": {key: _row(key, timings[key], yardstick) for key in stages},
        "throughput": sweep,
        "sustained": drift,
        "scenes": scenes,
        "neural_engine": _engine(package),
        "coreml_stopwatch": coreml,
        "verdicts": [asdict(v) for v in with_phone(verdicts, budgets, coreml)],
        "seconds": round(time.monotonic() - begun, 1),
    }


def _stage_specs(export: Export, threads: int, side: int) -> dict[str, Spec]:
    common = {"threads": threads, "batch": 1, "side": side, "folder": str(export.folder.resolve())}
    path = str(export.artifact("onnx-fp32").resolve())
    return {name: {"backend": name, "path": path, **common} for name in STAGES}


def matmul_specs(threads: int) -> dict[str, Spec]:
    """Return the matrix products that are timed beside the backends, one of each arithmetic."""
    return {
        f"matmul-{arithmetic}": {
            "backend": "matmul",
            "threads": threads,
            "batch": 1,
            "arithmetic": arithmetic,
        }
        for arithmetic in (FLOAT32, *dict.fromkeys(ARITHMETIC.values()))
    }


def matmul_peaks(timings: Mapping[str, Timing]) -> dict[str, float]:
    """Return GFLOP/s (int8: 10^9 operations a second) by arithmetic, of those that torch has on this machine."""
    return {
        str(timing.spec["arithmetic"]): matmul_gflops(timing.percentiles()["p50_ms"])
        for timing in timings.values()
        if not timing.error
    }


def share_of_peak(name: str, p50_ms: float, gmacs: float, peaks: Mapping[str, float]) -> dict[str, Any]:
    """Return ``share_of_matmul_peak`` of a backend and the ``arithmetic`` whose peak that is: its own if timed."""
    own = ARITHMETIC.get(name, FLOAT32)
    arithmetic = own if own in peaks else FLOAT32
    share = 2 * gmacs / (p50_ms / 1e3) / peaks[arithmetic]
    return {"arithmetic": arithmetic, "share_of_matmul_peak": share}


def _row(
    name: str,
    timing: Timing,
    yardstick: Timing,
    gmacs: float | None = None,
    peaks: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    if timing.error:
        return {"error": timing.error}
    ratio = speed_ratio(yardstick, timing)
    row: dict[str, Any] = {
        **timing.percentiles(),
        "ratio": asdict(ratio),
        "cold_start_ms": timing.cold_start_ms,
        "load_ms": timing.load_ms,
        "first_call_ms": timing.first_call_ms,
        "peak_mb": timing.peak_mb,
        "calls": len(timing.calls_ms),
    }
    if gmacs is not None and peaks:
        row |= share_of_peak(name, row["p50_ms"], gmacs, peaks)
    return row


def throughput(model: DualEncoder, protocol: Protocol, folder: Path, side: int) -> list[dict[str, float]]:
    """Time ONNX Runtime over batch sizes and thread counts, on a graph with an open batch."""
    import torch

    from export.contract import EMBEDDING_NAME, INPUT_NAME
    from export.onnx_graph import write_onnx
    from export.pixel_graph import PixelEncoder

    path = folder / "open_batch.onnx"
    names = {"input_name": INPUT_NAME, "output_name": EMBEDDING_NAME, "metadata": {}}
    module = PixelEncoder(fused_copy(model)).eval()
    write_onnx(module, torch.rand(1, 3, side, side), path, dynamic_batch=True, **names)  # type: ignore[arg-type]
    cores = os.cpu_count() or 1
    common = {"backend": "onnxruntime", "path": str(path.resolve()), "side": side}
    specs = {
        f"{threads}/{batch}": {**common, "threads": threads, "batch": batch}
        for threads in sorted({1, max(1, cores // 2), cores})
        for batch in protocol.batches
    }
    timings = time_interleaved(specs, max(3, protocol.rounds // 3), 3)
    return [
        {"threads": timing.spec["threads"], "batch": timing.spec["batch"], **timing.percentiles()}
        for timing in timings.values()
        if not timing.error
    ]


def _live(stream: Spec, encoder: Spec, protocol: Protocol) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Play the live scans, then run the encoder without a break; returns scenes and thermal drift."""
    with Worker(stream) as worker:
        scenes = [worker.scene(rate, protocol.scene_s) for rate in protocol.frames_per_second]
    with Worker(encoder) as worker:
        times = worker.time(seconds=protocol.sustained_s)
    fifth = max(1, len(times) // 5)
    start, end = float(np.median(times[:fifth])), float(np.median(times[-fifth:]))
    return scenes, {
        "seconds": protocol.sustained_s,
        "calls": len(times),
        "first_fifth_p50_ms": start,
        "last_fifth_p50_ms": end,
        "drift": end / start - 1,
    }


def _engine(package: Path | None) -> dict[str, Any]:
    if package is None:
        return {"status": "NOT RUN", "reason": "the export has no Core ML package"}
    return neural_engine_share(package)


def what_holds_back(rows: Mapping[str, Mapping[str, Any]], instructions: Sequence[str]) -> dict[str, str]:
    """Say, for each backend, what bounds its speed on this processor."""
    notes = {}
    for name, row in rows.items():
        if "share_of_matmul_peak" not in row:
            continue
        share = f"{row['share_of_matmul_peak']:.0%}"
        notes[name] = f"it runs at {share} of this machine's {row['arithmetic']} matmul peak"
        if name in INT8 and instructions and not INT8_PRODUCTS & set(instructions):
            notes[name] += ", and the processor has no int8 dot product (VNNI)"
    return notes


def with_phone(
    verdicts: list[Verdict], budgets: Mapping[str, Any], coreml: Mapping[str, Any]
) -> list[Verdict]:
    """Add the verdicts on an attached phone in place of those that do not apply to this machine."""
    rows = [row for row in coreml.get("rows", []) if row["device"] != MAC]
    if not rows:
        return verdicts
    found = check_absolute(budgets, {row["backend"]: row["p50_ms"] for row in rows}, rows[0]["device"])
    judged = [verdict for verdict in found if verdict.status != NOT_APPLICABLE]
    names = {verdict.budget for verdict in judged}
    return [verdict for verdict in verdicts if verdict.budget not in names] + judged
