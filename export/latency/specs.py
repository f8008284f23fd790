"""What a latency run times: backends of the encoder, stages of a camera frame, matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from export.latency.backends import COREML_UNITS, INT8, SMALLER, TORCH, available
from export.latency.interleave import Timing
from export.latency.machine import matmul_gflops
from export.manifest import Export

Spec = dict[str, Any]
FLOAT32 = "float32"
ARITHMETIC = {"openvino-bf16": "bfloat16", **dict.fromkeys(INT8, "int8")}  # of all others: float32
LIVE_COREML = ("coreml-all", "coreml-ane")  # what an app would choose from for a live scan


def backend_specs(
    export: Export, threads: int, torch_absent: str = ""
) -> tuple[dict[str, Spec], dict[str, str]]:
    """Say which backends can be timed with one frame at a time.

    Args:
        export: The export.
        threads: Threads of each.
        torch_absent: Why PyTorch cannot build the student here; "" where it can.

    Returns:
        Name -> spec, and name -> reason for those that cannot run here.
    """
    side = export.preprocessing.image_size
    recipe = export.manifest["source"]["recipe"]
    common = {"threads": threads, "batch": 1, "side": side}
    specs: dict[str, Spec] = {}
    absent: dict[str, str] = {}
    if torch_absent:
        absent |= dict.fromkeys(TORCH, torch_absent)
    else:
        specs |= {name: {"backend": name, "recipe": recipe, **common} for name in TORCH}
    artifacts = export.manifest["artifacts"]
    for name, state in available().items():
        artifact = "coreml-fp16" if name in COREML_UNITS else "onnx-fp32"
        if state != "yes" or artifact not in artifacts:
            absent[name] = state if state != "yes" else f"the export has no {artifact}"
            continue
        specs[name] = {"backend": name, "path": str(export.artifact(artifact).resolve()), **common}
    for name, backend in SMALLER.items():
        if name in artifacts and backend in specs:
            specs[name] = {**specs[backend], "path": str(export.artifact(name).resolve())}
        else:
            absent[name] = "not in this export" if backend in specs else absent[backend]
    return specs, absent


def stage_specs(export: Export, backends: Mapping[str, Spec], side: int) -> dict[str, Spec]:
    """Return the stages of a camera frame; end to end with ONNX Runtime and, on a Mac, with Core ML."""
    encoders = [name for name in ("onnxruntime", *LIVE_COREML) if name in backends]
    common = {"threads": backends["onnxruntime"]["threads"], "batch": 1, "side": side}
    common["folder"] = str(export.folder.resolve())
    specs = {name: {"backend": name, **common} for name in ("preprocess", "heads")}
    for encoder in encoders:
        own = {"backend": "end-to-end", "encoder": encoder, "path": backends[encoder]["path"]}
        specs[end_to_end(encoder)] = {**own, **common}
    return specs


def end_to_end(encoder: str) -> str:
    """Return the name of the whole way from a frame to the answers with one encoder."""
    return "end-to-end" if encoder == "onnxruntime" else f"end-to-end, {encoder}"


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
