"""What the figures were measured on, and what the model costs in principle."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from datamodules.cores import usable_cores
from export.latency.backends import MATMUL_SIDE
from export.provenance import package_versions
from models import DualEncoder

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
"""What the Makefile tells glibc's allocator, which changes the speed of whole commands. An app has neither."""


def device_name() -> str:
    """Return the processor's name, on a Mac with its model identifier."""
    if platform.system() == "Darwin":
        keys = ("hw.model", "machdep.cpu.brand_string")
        found = [
            subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False) for key in keys
        ]
        return " ".join(result.stdout.strip() for result in found) or "Mac"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16"
)  # fmt: skip
INT8_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


def instructions() -> list[str]:
    """Return which vector instructions that matter to inference this processor has; empty where unknown."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return []
    for line in cpuinfo.read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return sorted(set(INSTRUCTIONS) & set(line.partition(":")[2].split()))
    return []


def machine_facts() -> dict[str, Any]:
    """Return processor, usable cores, instructions, system, load and package versions."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "device": device_name(),
        "cores": usable_cores(),
        "instructions": instructions(),
        "system": platform.platform(),
        "load_average": load,
        "versions": package_versions(),
    }


def matmul_gflops(p50_ms: float) -> float:
    """Return the arithmetic rate of the matrix-product yardstick from its median time."""
    return 2 * MATMUL_SIDE**3 / (p50_ms * 1e6)


def image_cost(model: DualEncoder) -> dict[str, float]:
    """Count the image tower of a model in eval mode (fused, for what ships).

    Returns:
        ``parameters`` that take part in an image embedding (millions, ``parameters_m``) and ``gmacs``,
        multiply-accumulates of convolutions and matrix products of one frame, attention included.
    """
    side = model.preprocessing.image_size
    image = torch.zeros(1, 3, side, side)
    # The fused attention of a CPU counts as nothing; the plain one is two matrix products.
    plain_attention = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), plain_attention, FlopCounterMode(display=False) as counter:
        model.encode_image(image)
    program = torch.export.export(_ImageOnly(model), (image,))
    used = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    names = {
        spec.target
        for spec in program.graph_signature.input_specs
        if spec.arg.name in used and spec.kind.name == "PARAMETER"  # type: ignore[union-attr]
    }
    count = sum(parameter.numel() for name, parameter in program.named_parameters() if name in names)
    return {"parameters_m": count / 1e6, "gmacs": counter.get_total_flops() / 2e9}


class _ImageOnly(torch.nn.Module):
    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model.encode_image(image)
