"""Time several backends in turns, so that a busy machine slows all of them alike, and compare by round."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from export.latency.worker import Worker

REST_SECONDS = 0.05  # idle thread pools spin for some milliseconds before they sleep


@dataclass
class Timing:
    """Times of one backend.

    Attributes:
        spec: What was timed.
        rounds: Milliseconds of each call, by round.
        cold_start_ms: From the start of the process to the first result.
        load_ms: Import, read and compile.
        first_call_ms: The first call.
        peak_mb: Peak resident memory of the process.
        error: Why it could not be timed; then everything else is empty.
    """

    spec: dict[str, Any]
    rounds: list[list[float]] = field(default_factory=list)
    cold_start_ms: float = 0.0
    load_ms: float = 0.0
    first_call_ms: float = 0.0
    peak_mb: float = 0.0
    error: str = ""

    @property
    def calls_ms(self) -> list[float]:
        """All calls of all rounds."""
        return [value for times in self.rounds for value in times]

    def percentiles(self) -> dict[str, float]:
        """Return p50, p90, p95 and p99 in milliseconds, and images a second at the median."""
        p50, p90, p95, p99 = np.percentile(self.calls_ms, [50, 90, 95, 99]).tolist()
        rate = 1e3 * int(self.spec["batch"]) / p50
        return {"p50_ms": p50, "p90_ms": p90, "p95_ms": p95, "p99_ms": p99, "images_per_s": rate}


@dataclass(frozen=True)
class Ratio:
    """How many times faster one backend is than another: median over rounds, with the middle half."""

    median: float
    low: float
    high: float


def speed_ratio(slow: Timing, fast: Timing) -> Ratio:
    """Compare two backends that were timed in the same rounds.

    Args:
        slow: The yardstick.
        fast: The one in question.

    Returns:
        Median and quartiles, over rounds, of the ratio of the rounds' median times per image.
    """
    each = [
        np.median(yardstick) / np.median(own) for yardstick, own in zip(slow.rounds, fast.rounds, strict=True)
    ]
    scale = fast.spec["batch"] / slow.spec["batch"]
    low, median, high = (scale * np.percentile(each, [25, 50, 75])).tolist()
    return Ratio(median, low, high)


def time_interleaved(specs: Mapping[str, dict[str, Any]], rounds: int, repeats: int) -> dict[str, Timing]:
    """Time backends in turns, each in a process of its own.

    Args:
        specs: Name -> what to time (see `export.latency.backends.load`).
        rounds: Number of rounds.
        repeats: Calls a backend and round.

    Returns:
        Name -> times. A backend that fails to load, or that dies later, has its `error` set and no rounds; the
        others are timed all the same.
    """
    timings = {name: Timing(dict(spec)) for name, spec in specs.items()}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, spec in specs.items():
            try:
                worker = stack.enter_context(Worker(dict(spec)))
            except RuntimeError as error:
                timings[name].error = str(error)
                continue
            workers[name] = worker
            timings[name].cold_start_ms = worker.cold_start_ms
            timings[name].load_ms, timings[name].first_call_ms = worker.load_ms, worker.first_call_ms
        for number in range(rounds):
            # Every other round backwards: no backend always follows the same one.
            for name in list(workers) if number % 2 == 0 else list(reversed(workers)):
                time.sleep(REST_SECONDS)
                try:
                    timings[name].rounds.append(workers[name].time(repeats=repeats))
                except RuntimeError as error:
                    timings[name].error = str(error)
                    timings[name].rounds.clear()
                    del workers[name]
                    continue
                timings[name].peak_mb = workers[name].peak_mb
    return timings
