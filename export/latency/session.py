"""One latency run: the order of its parts, and the record that comes out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datamodules.cores import usable_cores
from export.latency.backends import INT8
from export.latency.budget_file import Protocol
from export.latency.budgets import FAILED, NOT_APPLICABLE, Verdict, check_absolute, check_budgets
from export.latency.coreml_stopwatch import MAC, stopwatch
from export.latency.interleave import Timing, speed_ratio, time_interleaved
from export.latency.live import play
from export.latency.machine import INT8_PRODUCTS, device_name, image_cost, instructions, machine_facts
from export.latency.neural_engine import neural_engine_share
from export.latency.specs import backend_specs, matmul_peaks, matmul_specs, share_of_peak, stage_specs
from export.manifest import Export
from models import DualEncoder, fused_copy


def run_session(
    export: Export,
    model: DualEncoder | str,
    budgets: Mapping[str, Any],
    protocol: Protocol,
    device: str | None,
    folder: Path,
    iphone: tuple[str, str | None] | None = None,
) -> dict[str, Any]:
    """Time everything and hold it against the budgets.

    Args:
        export: The export.
        model: The architecture that is exported, in eval mode; its weights do not matter. Or why it cannot be built
            here: then the exported files are timed alone.
        budgets: Content of the budgets' file.
        protocol: How long and how often.
        device: Name of the machine, to override its own.
        folder: Scratch folder for graphs with an open batch.
        iphone: Name of an iPhone that is attached to this Mac, and the team that signs the runner app.

    Returns:
        The record, of primitives alone.

    Raises:
        ValueError: The yardstick cannot be timed.
    """
    threads, side = usable_cores(), export.preprocessing.image_size
    begun = time.monotonic()
    package = export.artifact("coreml-fp16") if "coreml-fp16" in export.manifest["artifacts"] else None
    unbuilt, built = (model, None) if isinstance(model, str) else ("", model)
    specs, absent = backend_specs(export, threads, unbuilt)
    name = budgets["yardstick"]
    if name not in specs and not unbuilt:
        raise ValueError(f"latency: the yardstick {name} cannot be timed: {absent[name]}")
    coreml = stopwatch(package, *(iphone or (None, None)))
    stages, products = stage_specs(export, specs, side), matmul_specs(threads)
    timings = time_interleaved({**specs, **stages, **products}, protocol.rounds, protocol.repeats)
    yardstick = timings.get(name)
    if yardstick is not None and yardstick.error:
        raise ValueError(f"latency: the yardstick cannot be timed: {yardstick.error}")
    cost = {} if built is None else image_cost(fused_copy(built))
    peaks = matmul_peaks({name: timings[name] for name in products})
    rows = {name: _row(name, timings[name], yardstick, cost.get("gmacs"), peaks) for name in specs}
    sweep = throughput(export, built, protocol, folder)
    scenes, drifts = play(stages, specs, protocol)
    own_name = device or device_name()
    verdicts = _verdicts(budgets, rows, own_name, scenes, absent)
    return {
        "machine": machine_facts() | {"device": own_name, "matmul_gflops": peaks, "threads": threads},
        "model": {**cost, "source": export.manifest["source"], "side": side},
        "files": {key: entry["bytes"] for key, entry in export.manifest["artifacts"].items()},
        "protocol": asdict(protocol),
        "yardstick": name,
        "backends": rows,
        "absent": absent,
        "stages": {key: _row(key, timings[key], yardstick) for key in stages},
        "throughput": sweep,
        "sustained": drifts,
        "scenes": scenes,
        "neural_engine": neural_engine_share(package),
        "coreml_stopwatch": coreml,
        "verdicts": [asdict(v) for v in with_phone(verdicts, budgets, coreml)],
        "seconds": round(time.monotonic() - begun, 1),
    }


def _verdicts(
    budgets: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    device: str,
    scenes: list[dict[str, Any]],
    absent: Mapping[str, str],
) -> list[Verdict]:
    ratios = {name: row["ratio"]["median"] for name, row in rows.items() if "ratio" in row}
    medians = {name: row["p50_ms"] for name, row in rows.items() if "p50_ms" in row}
    errors = {key: row["error"] for key, row in rows.items() if "error" in row}
    unjudged = {name: f"no {budgets['yardstick']} to compare with" for name in medians if name not in ratios}
    reasons = {**absent, **what_holds_back(rows, instructions()), **unjudged}
    return check_budgets(budgets, ratios, medians, device, scenes, reasons, errors)


def _row(
    name: str,
    timing: Timing,
    yardstick: Timing | None,
    gmacs: float | None = None,
    peaks: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    if timing.error:
        return {"error": timing.error}
    row: dict[str, Any] = {
        **timing.percentiles(),
        "cold_start_ms": timing.cold_start_ms,
        "load_ms": timing.load_ms,
        "first_call_ms": timing.first_call_ms,
        "peak_mb": timing.peak_mb,
        "calls": len(timing.calls_ms),
    }
    if yardstick is not None:
        row["ratio"] = asdict(speed_ratio(yardstick, timing))
    if gmacs is not None and peaks:
        row |= share_of_peak(name, row["p50_ms"], gmacs, peaks)
    return row


def throughput(
    export: Export, model: DualEncoder | None, protocol: Protocol, folder: Path
) -> list[dict[str, float]]:
    """Time ONNX Runtime over batch sizes and thread counts, on a graph with an open batch.

    Args:
        export: The export.
        model: Its architecture, to write such a graph; without it the exported file is taken, with the one batch
            size that it has.
        protocol: Batch sizes and rounds.
        folder: Scratch folder.
    """
    path, batches = export.artifact("onnx-fp32"), protocol.batches
    if model is not None:
        path = _write_open_batch(model, folder / "open_batch.onnx")
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


def _write_open_batch(model: DualEncoder, path: Path) -> Path:
    import torch

    from export.contract import EMBEDDING_NAME, INPUT_NAME
    from export.onnx_graph import write_onnx
    from export.pixel_graph import PixelEncoder

    names = {"input_name": INPUT_NAME, "output_name": EMBEDDING_NAME, "metadata": {}}
    module, side = PixelEncoder(fused_copy(model)).eval(), model.preprocessing.image_size
    write_onnx(module, torch.rand(1, 3, side, side), path, dynamic_batch=True, **names)  # type: ignore[arg-type]
    return path


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
    if coreml["status"] == FAILED:
        verdicts = [*verdicts, Verdict("the attached phone is timed", None, FAILED, coreml["reason"])]
    rows = [row for row in coreml["rows"] if row["device"] != MAC]
    if not rows:
        return verdicts
    found = check_absolute(budgets, {row["backend"]: row["p50_ms"] for row in rows}, rows[0]["device"])
    judged = [verdict for verdict in found if verdict.status != NOT_APPLICABLE]
    names = {verdict.budget for verdict in judged}
    return [verdict for verdict in verdicts if verdict.budget not in names] + judged
