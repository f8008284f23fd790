"""The machine: processor, instructions, matrix-product peak, and what bounds a backend on it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from datamodules.cores import usable_cores
from export.latency.backends import BFLOAT16, INT8, MATMUL_SIDE, Spec
from export.latency.interleave import Timing
from export.package.manifest import PACKAGES
from models.files import package_versions

FLOAT32 = "float32"
ARITHMETIC = {BFLOAT16: "bfloat16", **dict.fromkeys(INT8, "int8")}  # of all other backends: float32
INT8_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
INSTRUCTIONS = INT8_PRODUCTS | {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16"}
NO_INT8_PRODUCT = "the processor has no int8 dot product (VNNI)"


def device_name() -> str:
    """Return the processor's name, on a Mac with its model identifier."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "hw.model", "machdep.cpu.brand_string"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return " ".join(found.split()) or "Mac"
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """Return the vector instructions of this processor that matter to inference; empty where unknown."""
    return sorted(INSTRUCTIONS & set(_cpuinfo("flags", "Features").split()))


def lacks_int8_product() -> bool:
    """Return whether this processor is known to have no int8 dot product."""
    found = set(instructions())
    return bool(found) and not INT8_PRODUCTS & found


@cache
def _cpuinfo(*keys: str) -> str:
    """Return the first entry of Linux's ``/proc/cpuinfo`` of one of these names, or ""."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(keys)), "")


def machine_facts() -> dict[str, Any]:
    """Return processor, usable cores, instructions, system, load and package versions."""
    return {
        "device": device_name(),
        "cores": usable_cores(),
        "instructions": instructions(),
        "system": platform.platform(),
        "load_average": os.getloadavg()[0],
        "versions": package_versions(*PACKAGES),
    }


def matmul_specs() -> dict[str, Spec]:
    """Return the matrix products of one thread that are timed beside the backends.

    PyTorch computes one of each arithmetic. ONNX Runtime computes float32 too: on AMD processors PyTorch's library,
    Intel's MKL, reaches half the speed of the others, so its product would be no limit.
    """
    arithmetics = (FLOAT32, *dict.fromkeys(ARITHMETIC.values()))
    common = {"backend": "matmul", "library": "torch", "threads": 1, "batch": 1}
    specs = {f"matmul-{arithmetic}": {**common, "arithmetic": arithmetic} for arithmetic in arithmetics}
    other = specs[f"matmul-{FLOAT32}"] | {"library": "onnxruntime"}
    return {**specs, "matmul-onnxruntime": other}


def matmul_gflops(p50_ms: float) -> float:
    """Return GFLOP/s (int8: 10^9 operations a second) of the timed matrix product from its median time."""
    return 2 * MATMUL_SIDE**3 / (p50_ms * 1e6)


def matmul_peaks(timings: Mapping[str, Timing]) -> dict[str, float]:
    """Return the fastest `matmul_gflops` of one thread by arithmetic, for those that could be timed."""
    peaks: dict[str, float] = {}
    for timing in timings.values():
        if not timing.error:
            arithmetic = str(timing.spec["arithmetic"])
            peaks[arithmetic] = max(peaks.get(arithmetic, 0.0), matmul_gflops(timing.cpu_p50_ms))
    return peaks


def share_of_peak(name: str, cpu_ms: float, gmacs: float, peaks: Mapping[str, float]) -> dict[str, Any]:
    """Return a backend's ``share_of_matmul_peak`` and the ``arithmetic`` of that peak: its own if it was timed.

    Nothing if neither its own nor float32 was timed.
    """
    own = ARITHMETIC.get(name, FLOAT32)
    arithmetic = own if own in peaks else FLOAT32
    if arithmetic not in peaks:
        return {}
    share = 2 * gmacs / (cpu_ms / 1e3) / peaks[arithmetic]
    return {"arithmetic": arithmetic, "share_of_matmul_peak": share}


def bottlenecks(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what bounds the speed of each backend on this processor, for rows that have a share of the peak."""
    notes = {}
    for name, row in rows.items():
        if "share_of_matmul_peak" in row:
            share = f"{row['share_of_matmul_peak']:.0%}"
            notes[name] = f"it runs at {share} of this machine's {row['arithmetic']} matmul peak"
            if name in INT8 and lacks_int8_product():
                notes[name] += f", and {NO_INT8_PRODUCT}"
    return notes
