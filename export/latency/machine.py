"""The machine's processor and matrix-product peak, and the cost of the model that runs on it."""

from __future__ import annotations

import copy
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from datamodules.cores import usable_cores
from export.latency.backends import INT8, MATMUL_SIDE, Spec
from export.latency.interleave import Timing
from models import DualEncoder
from models.files import package_versions

FLOAT32 = "float32"
ARITHMETIC = {"openvino-bf16": "bfloat16", **dict.fromkeys(INT8, "int8")}  # of all other backends: float32
INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16"
)  # fmt: skip
RUNTIMES = ("torch", "timm", "open_clip_torch", "onnx", "onnxruntime", "coremltools", "openvino", "numpy")
INT8_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


def device_name() -> str:
    """Return the processor's name, on a Mac with its model identifier."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "hw.model", "machdep.cpu.brand_string"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return " ".join(found.split()) or "Mac"
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """Return the vector instructions of this processor that matter to inference; empty where unknown."""
    return sorted(set(INSTRUCTIONS) & set(_cpuinfo("flags", "Features").split()))


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
        "versions": package_versions(*RUNTIMES),
    }


def matmul_specs(threads: int) -> dict[str, Spec]:
    """Return the matrix products that are timed beside the backends, one of each arithmetic."""
    arithmetics = (FLOAT32, *dict.fromkeys(ARITHMETIC.values()))
    common = {"backend": "matmul", "threads": threads, "batch": 1}
    return {f"matmul-{arithmetic}": {**common, "arithmetic": arithmetic} for arithmetic in arithmetics}


def matmul_gflops(p50_ms: float) -> float:
    """Return GFLOP/s (int8: 10^9 operations a second) of the timed matrix product from its median time."""
    return 2 * MATMUL_SIDE**3 / (p50_ms * 1e6)


def matmul_peaks(timings: Mapping[str, Timing]) -> dict[str, float]:
    """Return `matmul_gflops` by arithmetic, for those that PyTorch has on this machine."""
    return {
        str(timing.spec["arithmetic"]): matmul_gflops(timing.percentiles()["p50_ms"])
        for timing in timings.values()
        if not timing.error
    }


def share_of_peak(name: str, p50_ms: float, gmacs: float, peaks: Mapping[str, float]) -> dict[str, Any]:
    """Return a backend's ``share_of_matmul_peak`` and the ``arithmetic`` of that peak: its own if it was timed."""
    own = ARITHMETIC.get(name, FLOAT32)
    arithmetic = own if own in peaks else FLOAT32
    share = 2 * gmacs / (p50_ms / 1e3) / peaks[arithmetic]
    return {"arithmetic": arithmetic, "share_of_matmul_peak": share}


def bottlenecks(rows: Mapping[str, Mapping[str, Any]], instructions: Sequence[str]) -> dict[str, str]:
    """Return what bounds the speed of each backend on this processor, for rows that have a share of the peak."""
    notes = {}
    for name, row in rows.items():
        if "share_of_matmul_peak" not in row:
            continue
        share = f"{row['share_of_matmul_peak']:.0%}"
        notes[name] = f"it runs at {share} of this machine's {row['arithmetic']} matmul peak"
        if name in INT8 and instructions and not INT8_PRODUCTS & set(instructions):
            notes[name] += ", and the processor has no int8 dot product (VNNI)"
    return notes


def image_cost(model: DualEncoder) -> dict[str, float]:
    """Count parameters and multiply-accumulates of the image tower of a model in eval mode.

    Returns:
        ``parameters_m``, millions of parameters that take part in an image embedding, and ``gmacs``, 10^9
        multiply-accumulates of convolutions and matrix products of one frame, attention included.
    """
    side = model.preprocessing.image_size
    model = copy.deepcopy(model).requires_grad_(True)
    # FLOPs of the CPU's fused attention are not counted; the plain one is two matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        embedding = model.encode_image(torch.zeros(1, 3, side, side))
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(embedding.sum(), parameters, allow_unused=True)
    used = sum(p.numel() for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None)
    return {"parameters_m": used / 1e6, "gmacs": counter.get_total_flops() / 2e9}
