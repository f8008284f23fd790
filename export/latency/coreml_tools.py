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
from export.latency.budgets import FAILED

ITERATIONS = 100
MAC = "this Mac"
NOT_RUN = "NOT RUN"
MAX_REASON = 300


def stopwatch(package: Path | None, phone: str | None = None, team: str | None = None) -> dict[str, Any]:
    """Time loading and predicting with each choice of compute units, by MLModelBenchmarker.

    Args:
        package: A Core ML package, or None when the export has none.
        phone: Name of the attached iPhone as the budgets have it (``iPhone 16 Pro``); None for this Mac alone.
        team: Apple development team that signs the runner app.

    Returns:
        ``status``: "ok", "NOT RUN" (Apple's tools do not work on this Mac) or "FAILED" (on the phone that was asked
        for); ``rows``, those that were timed: ``device``, ``backend``, ``load_ms``, ``p50_ms``, ``p90_ms`` and
        ``p99_ms``; and unless "ok" the ``reason``.

    Raises:
        ValueError: A phone was asked for, but there is no Mac, no team, no package, or not exactly one attached
            iPhone.
    """
    reason = needs = ""
    if platform.system() != "Darwin":
        reason, needs = "MLModelBenchmarker needs macOS", "a Mac with Xcode that the phone is attached to"
    elif package is None:
        reason, needs = "the export has no Core ML package", "a Core ML package: EXPORT=folder of make export"
    if phone is not None and team is None:
        raise ValueError("latency: --iphone also needs --iphone_team, the Apple development team that signs")
    if phone is not None and needs:
        raise ValueError(f"latency: --iphone needs {needs}")
    if package is None or reason:
        return {"status": NOT_RUN, "reason": reason, "rows": []}
    attached = None if phone is None else _attached_phone()
    rows, reason = asyncio.run(_timed(package, MAC, None, None))
    record: dict[str, Any] = {"status": NOT_RUN, "reason": reason} if reason else {"status": "ok"}
    if phone is not None:
        more, failure = asyncio.run(_timed(package, phone, attached, team))
        rows += more
        if failure:
            record = {"status": FAILED, "reason": f"{phone}: {failure}"}
    return {**record, "rows": rows}


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
        return [], _one_line(error)
    for backend, units in COREML_UNITS.items():
        try:
            model = ct.models.MLModel(str(package), compute_units=getattr(ct.ComputeUnit, units))
            benchmarker = MLModelBenchmarker(model, device=device)
            load = await benchmarker.benchmark_load(iterations=1)
            predict = await benchmarker.benchmark_predict(iterations=ITERATIONS, warmup=True)
        except Exception as error:
            reasons.setdefault(_one_line(error), []).append(backend)
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
        raise ValueError(f"latency: --iphone: Xcode's tools list no devices: {_one_line(error)}") from error
    if len(phones) != 1:
        raise ValueError(f"latency: --iphone needs exactly one attached iPhone, found {len(phones)}")
    return phones[0]


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON]


def neural_engine_share(package: Path | None) -> dict[str, Any]:
    """Return the share of a package's operations that Core ML plans for the Neural Engine (macOS 14.4 and later).

    Args:
        package: A Core ML package, or None when the export has none.

    Returns:
        ``status`` ("ok" or "NOT RUN"), and for "ok" the ``share``, the number of ``operations`` and the names
        of those planned ``elsewhere``; for "NOT RUN" the ``reason``.
    """
    if package is None:
        return {"status": NOT_RUN, "reason": "the export has no Core ML package"}
    if platform.system() != "Darwin":
        return {"status": NOT_RUN, "reason": "MLComputePlan needs macOS"}
    try:
        return _planned(package)
    except Exception as error:  # an older macOS has no compute plan, a virtual machine no Neural Engine
        return {"status": NOT_RUN, "reason": f"MLComputePlan: {_one_line(error)}"}


def _planned(package: Path) -> dict[str, Any]:
    import coremltools as ct
    from coremltools.models.compute_device import MLNeuralEngineComputeDevice
    from coremltools.models.compute_plan import MLComputePlan

    model = ct.models.MLModel(str(package))  # its compiled copy is deleted with it
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
