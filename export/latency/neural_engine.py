"""Which share of a Core ML package's operations is planned for the Neural Engine, and how Apple's tools fail."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

MAX_REASON = 300


def why_not(error: Exception) -> str:
    """Return an error of Apple's tools, which raise bare ones, as a reason of one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON]


def neural_engine_share(package: Path | None) -> dict[str, Any]:
    """Say which share of a package's operations Core ML plans for the Neural Engine (macOS 14.4 and later).

    Args:
        package: A Core ML package, or None when the export has none.

    Returns:
        ``status`` ("ok" or "NOT RUN"), and for "ok" the ``share``, the number of ``operations`` and the names
        of those planned elsewhere; for "NOT RUN" the ``reason``.
    """
    if package is None:
        return {"status": "NOT RUN", "reason": "the export has no Core ML package"}
    if platform.system() != "Darwin":
        return {"status": "NOT RUN", "reason": "MLComputePlan needs macOS"}
    try:
        return _planned(package)
    except Exception as error:  # an older macOS has no compute plan, a virtual machine no Neural Engine
        return {"status": "NOT RUN", "reason": f"MLComputePlan: {why_not(error)}"}


def _planned(package: Path) -> dict[str, Any]:
    import coremltools as ct
    from coremltools.models.compute_device import MLNeuralEngineComputeDevice
    from coremltools.models.compute_plan import MLComputePlan

    model = ct.models.MLModel(str(package))  # its compiled copy lives as long as it does
    compiled = model.get_compiled_model_path()
    plan = MLComputePlan.load_from_path(path=compiled, compute_units=ct.ComputeUnit.ALL)
    program = plan.model_structure.program
    engine, elsewhere = 0, []
    for operation in program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is None:  # constants have none
            continue
        if isinstance(usage.preferred_compute_device, MLNeuralEngineComputeDevice):
            engine += 1
        else:
            elsewhere.append(operation.operator_name)
    total = engine + len(elsewhere)
    return {"status": "ok", "share": engine / max(total, 1), "operations": total, "elsewhere": elsewhere}
