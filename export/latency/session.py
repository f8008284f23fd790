"""One latency run: time everything, compare it with the budgets, return the record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from datamodules.cores import usable_cores
from export.graphs.contract import EMBEDDING_NAME, INPUT_NAME
from export.graphs.onnx_graph import write_onnx
from export.graphs.pixel_graph import PixelEncoder
from export.latency.backends import backend_specs, stage_specs
from export.latency.budgets import FAILED, Budgets, Protocol, Verdict, check_budgets
from export.latency.coreml_tools import MAC, neural_engine_share, stopwatch
from export.latency.interleave import Timing, speed_ratio, time_interleaved, time_live
from export.latency.machine import (
    bottlenecks,
    device_name,
    image_cost,
    instructions,
    machine_facts,
    matmul_peaks,
    matmul_specs,
    share_of_peak,
)
from export.package.manifest import Export
from models import DualEncoder, fused_copy


def run_session(
    export: Export,
    model: DualEncoder | str,
    budgets: Budgets,
    short: bool,
    device: str | None,
    folder: Path,
    iphone: tuple[str | None, str | None] = (None, None),
) -> dict[str, Any]:
    """Time everything and compare it with the budgets.

    Args:
        export: The export.
        model: The exported architecture in eval mode; its weights do not matter. Or why it cannot be built here:
            then only the exported files are timed.
        budgets: The budgets.
        short: Use the short protocol for CI.
        device: Name of the machine in the budgets; None for the processor's own.
        folder: Scratch folder for a graph with an open batch.
        iphone: Name of an iPhone that is attached to this Mac, and the team that signs the runner app.

    Returns:
        The record, of primitives alone.

    Raises:
        ValueError: The yardstick cannot be timed.
    """
    begun, threads, yardstick = time.monotonic(), usable_cores(), budgets.yardstick
    protocol = budgets.ci if short else budgets.protocol
    scene = budgets.scene.model_copy(update={"seconds": protocol.scene_s or budgets.scene.seconds})
    package = export.artifact("coreml-fp16") if "coreml-fp16" in export.manifest["artifacts"] else None
    unbuilt, fused = (model, None) if isinstance(model, str) else ("", fused_copy(model))
    specs, absent = backend_specs(export, threads, unbuilt)
    if yardstick not in specs and not unbuilt:
        raise ValueError(f"latency: the yardstick {yardstick} cannot be timed: {absent[yardstick]}")
    coreml = stopwatch(package, *iphone)
    stages, products = stage_specs(export, specs), matmul_specs(threads)
    timings = time_interleaved({**specs, **stages, **products}, protocol.rounds, protocol.repeats)
    slow = timings.get(yardstick)
    if slow is not None and slow.error:
        raise ValueError(f"latency: the yardstick cannot be timed: {slow.error}")
    cost = {} if fused is None else image_cost(fused)
    peaks = matmul_peaks({name: timings[name] for name in products})
    rows = {name: _row(timings[name], slow) for name in specs}
    for name, row in rows.items():
        if cost and peaks and "error" not in row:
            row |= share_of_peak(name, row["p50_ms"], cost["gmacs"], peaks)
    sweep = _throughput(export, fused, protocol, folder)
    scans, drifts = time_live(stages, specs, protocol, scene)
    own_name = device or device_name()
    verdicts = _verdicts(budgets, rows, own_name, scans, absent, coreml)
    return {
        "machine": machine_facts() | {"device": own_name, "matmul_gflops": peaks, "threads": threads},
        "model": {**cost, "source": export.manifest["source"], "side": export.preprocessing.image_size},
        "files": {key: entry["bytes"] for key, entry in export.manifest["artifacts"].items()},
        "protocol": protocol.model_dump(exclude={"scene_s"})
        | {"frames_per_second": scene.frames_per_second, "scene_s": scene.seconds},
        "yardstick": yardstick,
        "backends": rows,
        "absent": absent,
        "stages": {key: _row(timings[key], slow) for key in stages},
        "throughput": sweep,
        "sustained": drifts,
        "scenes": scans,
        "neural_engine": neural_engine_share(package),
        "coreml_stopwatch": coreml,
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "seconds": round(time.monotonic() - begun, 1),
    }


def _row(timing: Timing, yardstick: Timing | None) -> dict[str, Any]:
    if timing.error:
        return {"error": timing.error}
    row: dict[str, Any] = {**timing.percentiles(), **timing.facts, "calls": len(timing.calls_ms)}
    return row if yardstick is None else row | {"ratio": speed_ratio(yardstick, timing)._asdict()}


def _throughput(
    export: Export, fused: DualEncoder | None, protocol: Protocol, folder: Path
) -> list[dict[str, float]]:
    """Time ONNX Runtime over batch sizes and thread counts.

    The graph is written again with an open batch; without the model the exported file is timed, with its own batch
    size of one unless it has an open batch.
    """
    path, batches = export.artifact("onnx-fp32"), protocol.batches
    if fused is not None:
        path = folder / "open_batch.onnx"
        side = fused.preprocessing.image_size
        names = {"input_name": INPUT_NAME, "output_name": EMBEDDING_NAME, "metadata": {}}
        image = torch.rand(1, 3, side, side)
        write_onnx(PixelEncoder(fused).eval(), image, path, dynamic_batch=True, **names)  # type: ignore[arg-type]
    elif export.manifest["artifacts"]["onnx-fp32"].get("batch") != "any":
        batches = [1]
    cores = usable_cores()
    common = {"path": str(path.resolve()), "side": export.preprocessing.image_size}
    specs = {
        f"{threads}/{batch}": {"backend": "onnxruntime", **common, "threads": threads, "batch": batch}
        for threads in sorted({1, max(1, cores // 2), cores})
        for batch in batches
    }
    timings = time_interleaved(specs, max(3, protocol.rounds // 3), 3)
    return [
        {"threads": timing.spec["threads"], "batch": timing.spec["batch"], **timing.percentiles()}
        for timing in timings.values()
        if not timing.error
    ]


def _verdicts(
    budgets: Budgets,
    rows: Mapping[str, Mapping[str, Any]],
    device: str,
    scans: list[dict[str, Any]],
    absent: Mapping[str, str],
    coreml: Mapping[str, Any],
) -> list[Verdict]:
    ratios = {name: row["ratio"]["median"] for name, row in rows.items() if "ratio" in row}
    own = {name: row["p50_ms"] for name, row in rows.items() if "p50_ms" in row}
    errors = {key: row["error"] for key, row in rows.items() if "error" in row}
    incomparable = {name: f"no {budgets.yardstick} to compare with" for name in own if name not in ratios}
    reasons = {**absent, **bottlenecks(rows, instructions()), **incomparable}
    medians: dict[str, dict[str, float]] = {device: own}
    for row in coreml["rows"]:
        if row["device"] != MAC:
            medians.setdefault(row["device"], {})[row["backend"]] = row["p50_ms"]
    verdicts = check_budgets(budgets, ratios, medians, scans, reasons, errors)
    if coreml["status"] == FAILED:
        verdicts.append(Verdict("the attached phone is timed", None, FAILED, coreml["reason"]))
    return verdicts
