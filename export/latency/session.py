"""One latency run: time everything, compare it with the budgets, return the record."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from datamodules.cores import usable_cores
from export.graphs.contract import EMBEDDING_NAME, INPUT_NAME
from export.graphs.onnx_graph import quiet, write_onnx
from export.graphs.pixel_graph import PixelEncoder
from export.latency.backends import LIVE_ENCODERS, backend_specs, stage_specs
from export.latency.budgets import Budgets, check_budgets
from export.latency.coreml_tools import neural_engine_share, stopwatch
from export.latency.interleave import Timing, live_scans, speed_ratio, thermal_drifts, time_interleaved
from export.latency.machine import machine_facts, matmul_peaks, matmul_specs, share_of_peak
from export.package.manifest import Export
from models import DualEncoder, fused_copy
from models.cost import image_cost


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
        model: The exported architecture in eval mode, or why it cannot be built here: then only files are timed.
        budgets: The budgets.
        short: Use the short protocol for CI.
        device: Name of the machine in the budgets; None for the processor's own.
        folder: Scratch folder.
        iphone: Name of an iPhone that is attached to this Mac, and the team that signs the runner app.

    Returns:
        The record, as primitives.

    Raises:
        ValueError: The yardstick cannot be timed.
    """
    begun, threads, yardstick = time.monotonic(), usable_cores(), budgets.yardstick
    protocol = budgets.ci if short else budgets.protocol
    rates, scan_s = list(budgets.scene.rates), protocol.scene_s or budgets.scene.seconds
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
    peaks = matmul_peaks({name: timings[name] for name in products})
    rows = {name: _row(timings[name], slow) for name in specs}
    cost = {}
    if fused is not None:
        count = image_cost(fused)
        cost = {"parameters_m": count.image_parameters / 1e6, "gmacs": count.gmacs}
        for name, row in rows.items():
            if peaks and "error" not in row:
                row |= share_of_peak(name, row["p50_ms"], count.gmacs, peaks)
    machine = machine_facts() | {"matmul_gflops": peaks, "threads": threads}
    record = {
        "machine": machine | ({"device": device} if device else {}),
        "model": {**cost, "source": export.manifest["source"], "side": export.preprocessing.image_size},
        "files": {key: entry["bytes"] for key, entry in export.manifest["artifacts"].items()},
        "protocol": {**protocol.model_dump(), "frames_per_second": rates, "scene_s": scan_s},
        "yardstick": yardstick,
        "backends": rows,
        "absent": absent,
        "stages": {key: _row(timings[key], slow) for key in stages},
        "throughput": _throughput(export, fused, protocol.batches, max(3, protocol.rounds // 3), folder),
        "scenes": live_scans(stages, rates, scan_s),
        "sustained": thermal_drifts(
            {name: specs[name] for name in LIVE_ENCODERS if name in specs}, protocol.sustained_s
        ),
        "neural_engine": neural_engine_share(package),
        "coreml_stopwatch": coreml,
    }
    verdicts = [asdict(verdict) for verdict in check_budgets(budgets, record)]
    return {**record, "verdicts": verdicts, "seconds": round(time.monotonic() - begun, 1)}


def _row(timing: Timing, yardstick: Timing | None) -> dict[str, Any]:
    if timing.error:
        return {"error": timing.error}
    row: dict[str, Any] = {**timing.percentiles(), **timing.facts, "calls": len(timing.calls_ms)}
    return row if yardstick is None else row | {"ratio": speed_ratio(yardstick, timing)._asdict()}


def _throughput(
    export: Export, fused: DualEncoder | None, batches: list[int], rounds: int, folder: Path
) -> list[dict[str, float]]:
    """Time ONNX Runtime over batch sizes and thread counts, on a graph with an open batch.

    Without the model that is the exported file, with its own batch size of one unless it has an open batch.
    """
    path, side = export.artifact("onnx-fp32"), export.preprocessing.image_size
    if fused is not None:
        path, encoder = folder / "open_batch.onnx", PixelEncoder(fused).eval()
        names: dict[str, Any] = {"input_name": INPUT_NAME, "output_name": EMBEDDING_NAME, "metadata": {}}
        with quiet([]):
            write_onnx(encoder, torch.rand(1, 3, side, side), path, dynamic_batch=True, **names)
    elif export.manifest["artifacts"]["onnx-fp32"].get("batch") != "any":
        batches = [1]
    cores = usable_cores()
    common = {"backend": "onnxruntime", "path": str(path.resolve()), "side": side}
    specs = {
        f"{threads}/{batch}": {**common, "threads": threads, "batch": batch}
        for threads in sorted({1, max(1, cores // 2), cores})
        for batch in batches
    }
    return [
        {"threads": timing.spec["threads"], "batch": timing.spec["batch"], **timing.percentiles()}
        for timing in time_interleaved(specs, rounds, 3).values()
        if not timing.error
    ]
