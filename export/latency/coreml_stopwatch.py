"""Core ML's own stopwatch (MLModelBenchmarker): on this Mac, and on an iPhone that is attached to it.

coremltools builds its model runner app with Xcode, signs it with the given team, and starts it on the phone.
"""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path
from typing import Any

import numpy as np

from export.latency.backends import COREML_UNITS
from export.latency.budgets import FAILED
from export.latency.neural_engine import why_not

ITERATIONS = 100
MAC = "this Mac"


def stopwatch(package: Path | None, phone: str | None = None, team: str | None = None) -> dict[str, Any]:
    """Time loading and predicting with each choice of compute units.

    Args:
        package: A Core ML package, or None when the export has none.
        phone: Name of the attached iPhone as the budgets have it (``iPhone 16 Pro``); None for this Mac alone.
        team: Apple development team that signs the runner app.

    Returns:
        ``status``: "ok", "NOT RUN" (Apple's tools do not work on this Mac) or "FAILED" (nor on the phone that was
        asked for); ``rows``, those that were timed: ``device``, ``backend``, ``load_ms``, ``p50_ms``, ``p90_ms`` and
        ``p99_ms``; and unless "ok" the ``reason``.

    Raises:
        ValueError: A phone was asked for, but there is no Mac, no team, no package, or not exactly one attached
            iPhone.
    """
    if phone is not None and team is None:
        raise ValueError("latency: --iphone also needs --iphone_team, the Apple development team that signs")
    if platform.system() != "Darwin":
        if phone is not None:
            raise ValueError("latency: --iphone needs a Mac with Xcode that the phone is attached to")
        return {"status": "NOT RUN", "reason": "MLModelBenchmarker needs macOS", "rows": []}
    if package is None:
        if phone is not None:
            raise ValueError("latency: --iphone needs a Core ML package: EXPORT=folder of make export")
        return {"status": "NOT RUN", "reason": "the export has no Core ML package", "rows": []}
    attached = None if phone is None else _attached_phone()
    rows, reason = asyncio.run(_timed(package, MAC, None, None))
    record: dict[str, Any] = {"status": "NOT RUN" if reason else "ok", "rows": rows}
    if reason:
        record["reason"] = reason
    if phone is not None:
        more, failure = asyncio.run(_timed(package, phone, attached, team))
        record["rows"] = rows + more
        if failure:
            record |= {"status": FAILED, "reason": f"{phone}: {failure}"}
    return record


async def _timed(package: Path, name: str, phone: Any, team: str | None) -> tuple[list[dict[str, Any]], str]:
    """Return the rows of one device, and why some are missing ("" when none is)."""
    rows: list[dict[str, Any]] = []
    reasons: dict[str, list[str]] = {}
    try:
        device = None if phone is None else await _prepared(phone, str(team))
    except Exception as error:  # Apple's tools raise what they like
        return [], why_not(error)
    for backend in COREML_UNITS:
        try:
            rows.append(await _row(package, backend, name, device))
        except Exception as error:
            reasons.setdefault(why_not(error), []).append(backend)
    return rows, "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


async def _row(package: Path, backend: str, name: str, device: Any) -> dict[str, Any]:
    import coremltools as ct
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

    units = getattr(ct.ComputeUnit, COREML_UNITS[backend])
    benchmarker = MLModelBenchmarker(ct.models.MLModel(str(package), compute_units=units), device=device)
    load = await benchmarker.benchmark_load(iterations=1)
    predict = await benchmarker.benchmark_predict(iterations=ITERATIONS, warmup=True)
    p50, p90, p99 = np.percentile(predict.samples, [50, 90, 99]).tolist()
    facts = {"device": name, "backend": backend, "load_ms": float(load.samples[0])}
    return {**facts, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99}


def _attached_phone() -> Any:
    """Return the one iPhone that is attached; a user hears before anything is timed that there is none."""
    from coremltools.models.ml_program.experimental.remote_device import Device, DeviceType

    try:
        phones = Device.get_connected_devices(DeviceType.IPHONE)
    except Exception as error:
        raise ValueError(f"latency: --iphone: Xcode's tools list no devices: {why_not(error)}") from error
    if len(phones) != 1:
        raise ValueError(f"latency: --iphone needs exactly one attached iPhone, found {len(phones)}")
    return phones[0]


async def _prepared(phone: Any, team: str) -> Any:
    from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials

    return await phone.prepare_for_model_debugging(AppSigningCredentials(development_team=team))
