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

ITERATIONS = 100
MAC = "this Mac"


def stopwatch(package: Path | None, phone: str | None = None, team: str | None = None) -> dict[str, Any]:
    """Time loading and predicting with each choice of compute units.

    Args:
        package: A Core ML package, or None when the export has none.
        phone: Name of the attached iPhone as the budgets have it (``iPhone 16 Pro``); None for this Mac alone.
        team: Apple development team that signs the runner app.

    Returns:
        ``status`` ("ok" or "NOT RUN") with the ``reason``, or with ``rows``: ``device``, ``backend``,
        ``load_ms``, ``p50_ms``, ``p90_ms`` and ``p99_ms``.

    Raises:
        ValueError: A phone was asked for, but there is no Mac, no team, or not exactly one attached iPhone.
    """
    if phone is not None and team is None:
        raise ValueError("latency: --iphone also needs --iphone_team, the Apple development team that signs")
    if platform.system() != "Darwin":
        if phone is not None:
            raise ValueError("latency: --iphone needs a Mac with Xcode that the phone is attached to")
        return {"status": "NOT RUN", "reason": "MLModelBenchmarker needs macOS"}
    if package is None:
        return {"status": "NOT RUN", "reason": "the export has no Core ML package"}
    return {"status": "ok", "rows": asyncio.run(_all(package, phone, team))}


async def _all(package: Path, phone: str | None, team: str | None) -> list[dict[str, Any]]:
    rows = [await _row(package, backend, MAC, None) for backend in COREML_UNITS]
    if phone is not None:
        device = await _attached_phone(str(team))
        rows += [await _row(package, backend, phone, device) for backend in COREML_UNITS]
    return rows


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


async def _attached_phone(team: str) -> Any:
    from coremltools.models.ml_program.experimental.remote_device import (
        AppSigningCredentials,
        Device,
        DeviceType,
    )

    phones = Device.get_connected_devices(DeviceType.IPHONE)
    if len(phones) != 1:
        raise ValueError(f"latency: --iphone needs exactly one attached iPhone, found {len(phones)}")
    return await phones[0].prepare_for_model_debugging(AppSigningCredentials(development_team=team))
