"""One latency run: time everything, compare it with the budgets, return the record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from datamodules.cores import usable_cores
from export.graphs.onnx_graph import quiet, write_onnx
from export.graphs.pixel_graph import PixelEncoder
from export.latency.backends import ACCELERATED, INT8, LIVE_ENCODERS, Spec, backend_specs, stage_specs
from export.latency.budgets import Budgets, TimingSettings, check_budgets, undecided
from export.latency.coreml_tools import neural_engine_share, stopwatch
from export.latency.interleave import Timing, live_scans, speed_ratio, thermal_drifts, time_interleaved
from export.latency.machine import machine_facts, matmul_peaks, matmul_specs, share_of_peak
from export.package.manifest import Export
from models import DualEncoder, fused_copy
from models.cost import image_cost

ATTEMPTS = 2  # to decide every budget


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
        short: Use the short timing settings of CI.
        device: Name of the machine in the budgets; None for the processor's own.
        folder: Scratch folder.
        iphone: Name of an iPhone that is attached to this Mac, and the team that signs the runner app.

    Returns:
        The record, as primitives.

    Raises:
        ValueError: The reference cannot be timed.
    """
    begun, threads, reference = time.monotonic(), usable_cores(), budgets.reference
    settings = budgets.ci if short else budgets.timing
    rates, scan_s = list(budgets.live_scan.rates), settings.live_scan_s or budgets.live_scan.seconds
    package = export.artifact("coreml-fp16") if "coreml-fp16" in export.manifest["artifacts"] else None
    unbuilt, fused = (model, None) if isinstance(model, str) else ("", fused_copy(model))
    specs, absent = backend_specs(export, threads, unbuilt)
    if reference not in specs and not unbuilt:
        raise ValueError(f"latency: the reference {reference} cannot be timed: {absent[reference]}")
    coreml = stopwatch(package, *iphone)
    stages = stage_specs(export, specs)
    timings = time_interleaved({**specs, **stages}, settings.rounds, settings.repeats)
    slow = timings.get(reference)
    if slow is not None and slow.error:
        raise ValueError(f"latency: the reference cannot be timed: {slow.error}")
    rows = {name: _row(timings[name]) for name in specs}
    cost = {}
    if fused is not None:
        count = image_cost(fused)
        cost = {"parameters_m": count.image_parameters / 1e6, "gmacs": count.gmacs}
    machine = machine_facts() | {"threads": threads}
    record: dict[str, Any] = {
        "machine": machine | ({"device": device} if device else {}),
        "model": {**cost, "source": export.manifest["source"], "side": export.preprocessing.image_size},
        "files": {key: entry["bytes"] for key, entry in export.manifest["artifacts"].items()},
        "timing": {**settings.model_dump(), "frames_per_second": rates, "live_scan_s": scan_s},
        "reference": reference,
        "backends": rows,
        "absent": absent,
        "stages": {key: _row(timings[key]) for key in stages},
        "throughput": _throughput(export, fused, settings.batches, max(3, settings.rounds // 3), folder),
        "live_scans": live_scans(stages, rates, scan_s),
        "sustained": thermal_drifts(
            {name: specs[name] for name in LIVE_ENCODERS if name in specs}, settings.sustained_s
        ),
        "neural_engine": neural_engine_share(package),
        "coreml_stopwatch": coreml,
    }
    for _ in range(ATTEMPTS):
        peaks = _compare(rows, timings, specs, reference, settings, cost.get("gmacs"))
        record["machine"]["matmul_gflops"] = peaks
        verdicts = check_budgets(budgets, record)
        if not undecided(verdicts):
            break
    found = [asdict(verdict) for verdict in verdicts]
    return {**record, "verdicts": found, "seconds": round(time.monotonic() - begun, 1)}


def _row(timing: Timing) -> dict[str, Any]:
    if timing.error:
        return {"error": timing.error}
    return {**timing.percentiles(), **timing.facts, "calls": len(timing.calls_ms)}


def _compare(
    rows: Mapping[str, dict[str, Any]],
    timings: Mapping[str, Timing],
    specs: Mapping[str, Spec],
    reference: str,
    settings: TimingSettings,
    gmacs: float | None,
) -> dict[str, float]:
    """Add to the rows the processor time of one thread, ratios of it, and the share of the matrix-product peak.

    What does not compute on the CPU has a ratio of elapsed times with all threads.

    Returns:
        The peaks of one thread, GFLOP/s by arithmetic.
    """
    products = matmul_specs()
    own = {name: {**spec, "threads": 1} for name, spec in specs.items() if spec["backend"] not in ACCELERATED}
    own = {name: spec for name, spec in own.items() if "error" not in rows[name]}
    single = time_interleaved({**own, **products}, settings.rounds, settings.repeats)
    if reference in own and single[reference].error:
        raise ValueError(f"latency: the reference cannot be timed: {single[reference].error}")
    peaks = matmul_peaks({name: single[name] for name in products})
    for name, row in rows.items():
        if specs[name]["backend"] in ACCELERATED:
            if reference in timings and "error" not in row:
                row["ratio"] = speed_ratio(timings[reference], timings[name])._asdict()
            continue
        timing = single.get(name)
        if timing is None or timing.error:
            row.setdefault("error", "" if timing is None else timing.error)
            continue
        row["cpu_ms"] = timing.cpu_p50_ms
        for key, other in (("ratio", reference), ("of_float32", INT8.get(name))):
            if other in single and not single[other].error:
                row[key] = speed_ratio(single[other], timing, cpu=True)._asdict()
        if gmacs is not None:
            row |= share_of_peak(name, row["cpu_ms"], gmacs, peaks)
    return peaks


def _throughput(
    export: Export, fused: DualEncoder | None, batches: list[int], rounds: int, folder: Path
) -> list[dict[str, float]]:
    """Time ONNX Runtime over batch sizes and thread counts, on a graph with an open batch.

    Without the model that is the exported file, with its own batch size of one unless it has an open batch.
    """
    path, side = export.artifact("onnx-fp32"), export.preprocessing.image_size
    if fused is not None:
        path, encoder = folder / "open_batch.onnx", PixelEncoder(fused).eval()
        with quiet([]):
            write_onnx(encoder, torch.rand(1, 3, side, side), path, dynamic_batch=True)
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
        {"threads": timing.spec["threads"], "batch": timing.spec["batch"], **_row(timing)}
        for timing in time_interleaved(specs, rounds, 3).values()
    ]
