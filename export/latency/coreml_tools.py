"""Apple's own measurements of a Core ML package: MLModelBenchmarker on this Mac or an attached iPhone, MLComputePlan.

For an iPhone coremltools builds its model runner app with Xcode, signs it with the given team, and starts it there.
"""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path
from typing import Any

import numpy as np

from export.latency.backends import COREML_UNITS
from models.messages import error_line

ITERATIONS = 100
MAC = "this Mac"
NOT_RUN, FAILED = "NOT RUN", "FAILED"


def stopwatch(package: Path | None, phone: str | None = None, team: str | None = None) -> dict[str, Any]:
    """Time loading and predicting with each choice of compute units, by MLModelBenchmarker.

    Args:
        package: A Core ML package, or None when the export has none.
        phone: Name of the attached iPhone in the budgets (``iPhone 16 Pro``); None for this Mac only.
        team: Apple development team that signs the runner app.

    Returns:
        ``status``: "ok", "NOT RUN" (Apple's tools do not work on this Mac) or "FAILED" (on the requested
        phone); ``rows``, those that were timed: ``device``, ``backend``, ``load_ms``, ``p50_ms``, ``p90_ms`` and
        ``p99_ms``; and the ``reason``, "" for "ok".

    Raises:
        ValueError: A phone was requested, but there is no Mac, no team, no package, or not exactly one attached
            iPhone.
    """
    reason = _unable(package, "MLModelBenchmarker")
    if phone is not None and (reason or team is None):
        needs = reason or "--iphone_team, the Apple development team that signs, is not given"
        raise ValueError(f"latency: --iphone cannot be timed: {needs}")
    if package is None or reason:
        return {"status": NOT_RUN, "reason": reason, "rows": []}
    attached = None if phone is None else _attached_phone()
    rows, reason = asyncio.run(_timed(package, MAC, None, None))
    status = NOT_RUN if reason else "ok"
    if phone is not None:
        more, failure = asyncio.run(_timed(package, phone, attached, team))
        rows += more
        if failure:
            status, reason = FAILED, f"{phone}: {failure}"
    return {"status": status, "reason": reason, "rows": rows}


def _unable(package: Path | None, tool: str) -> str:
    """Return why one of Apple's tools cannot measure a package here, "" where it can."""
    if platform.system() != "Darwin":
        return f"{tool} needs macOS"
    return "the export has no Core ML package" if package is None else ""


async def _timed(package: Path, name: str, phone: Any, team: str | None) -> tuple[list[dict[str, Any]], str]:
    """Return the rows of one device, and why some are missing ("" when none is)."""
    import coremltools as ct
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker
    from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials

    rows: list[dict[str, Any]] = []
    reasons: dict[str, list[str]] = {}
    device = None
    try:
        if phone is not None:
            credentials = AppSigningCredentials(development_team=team)
            device = await phone.prepare_for_model_debugging(credentials)
    except Exception as error:  # Apple's tools raise bare exceptions
        return [], error_line(error)
    for backend, units in COREML_UNITS.items():
        try:
            model = ct.models.MLModel(str(package), compute_units=getattr(ct.ComputeUnit, units))
            benchmarker = MLModelBenchmarker(model, device=device)
            load = await benchmarker.benchmark_load(iterations=1)
            predict = await benchmarker.benchmark_predict(iterations=ITERATIONS, warmup=True)
        except Exception as error:
            reasons.setdefault(error_line(error), []).append(backend)
            continue
        p50, p90, p99 = np.percentile(predict.samples, [50, 90, 99]).tolist()
        facts = {"device": name, "backend": backend, "load_ms": float(load.samples[0])}
        rows.append({**facts, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99})
    return rows, "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def _attached_phone() -> Any:
    """Return the one attached iPhone; checked before anything is timed."""
    from coremltools.models.ml_program.experimental.remote_device import Device, DeviceType

    try:
        phones = Device.get_connected_devices(DeviceType.IPHONE)
    except Exception as error:
        raise ValueError(f"latency: --iphone: Xcode's tools list no devices: {error_line(error)}") from error
    if len(phones) != 1:
        raise ValueError(f"latency: --iphone needs exactly one attached iPhone, found {len(phones)}")
    return phones[0]


def neural_engine_share(package: Path | None) -> dict[str, Any]:
    """Return the share of a package's operations that Core ML plans for the Neural Engine (macOS 14.4 and later).

    Returns:
        ``status`` "ok", ``share``, number of ``operations`` and names of those ``elsewhere``; or "NOT RUN", ``reason``.
    """
    if reason := _unable(package, "MLComputePlan"):
        return {"status": NOT_RUN, "reason": reason}
    try:
        return _planned(str(package))
    except Exception as error:  # an older macOS has no compute plan, a virtual machine no Neural Engine
        return {"status": NOT_RUN, "reason": f"MLComputePlan: {error_line(error)}"}


def _planned(package: str) -> dict[str, Any]:
    import coremltools as ct
    from coremltools.models.compute_device import MLNeuralEngineComputeDevice
    from coremltools.models.compute_plan import MLComputePlan

    model = ct.models.MLModel(package)  # its compiled copy is deleted with it
    compiled = model.get_compiled_model_path()
    plan = MLComputePlan.load_from_path(path=compiled, compute_units=ct.ComputeUnit.ALL)
    operations = plan.model_structure.program.functions["main"].block.operations
    usages = [(each, plan.get_compute_device_usage_for_mlprogram_operation(each)) for each in operations]
    elsewhere = [
        each.operator_name
        for each, usage in usages
        if usage is not None and not isinstance(usage.preferred_compute_device, MLNeuralEngineComputeDevice)
    ]
    total = sum(usage is not None for _, usage in usages)  # constants have none
    share = (total - len(elsewhere)) / max(total, 1)
    return {"status": "ok", "share": share, "operations": total, "elsewhere": elsewhere}
