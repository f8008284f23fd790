"""Live scans, and the encoder without a break: what a phone in the hand would feel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from export.latency.budget_file import Protocol
from export.latency.specs import Spec, end_to_end
from export.latency.worker import Worker


def play(
    stages: Mapping[str, Spec], backends: Mapping[str, Spec], protocol: Protocol
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Play the live scans, then run the encoder without a break, with each encoder that has an end-to-end stage.

    Args:
        stages: Stages of a camera frame (`export.latency.specs.stage_specs`).
        backends: Backends of the encoder.
        protocol: Rates and lengths.

    Returns:
        Scenes (see `run_scene`) and thermal drifts, each with its ``encoder``; an ``error`` stands in for the figures
        where a backend broke.
    """
    scenes: list[dict[str, Any]] = []
    drifts: list[dict[str, Any]] = []
    for encoder in [name for name in backends if end_to_end(name) in stages]:
        scenes += _scenes(encoder, stages[end_to_end(encoder)], protocol)
        drifts.append({"encoder": encoder, **_drift(backends[encoder], protocol.sustained_s)})
    return scenes, drifts


def _scenes(encoder: str, stream: Spec, protocol: Protocol) -> list[dict[str, Any]]:
    rates, found = protocol.frames_per_second, []
    try:
        with Worker(stream) as worker:
            for rate in rates:
                found.append({"encoder": encoder, **worker.scene(rate, protocol.scene_s)})  # noqa: PERF401  what was played stays
    except RuntimeError as error:
        facts = {"encoder": encoder, "error": str(error)}
        found += [{**facts, "frames_per_second": rate} for rate in rates[len(found) :]]
    return found


def _drift(encoder: Spec, seconds: float) -> dict[str, Any]:
    try:
        with Worker(encoder) as worker:
            times = worker.time(seconds=seconds)
    except RuntimeError as error:
        return {"error": str(error)}
    fifth = max(1, len(times) // 5)
    start, end = float(np.median(times[:fifth])), float(np.median(times[-fifth:]))
    return {
        "seconds": seconds,
        "calls": len(times),
        "first_fifth_p50_ms": start,
        "last_fifth_p50_ms": end,
        "drift": end / start - 1,
    }
