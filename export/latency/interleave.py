"""Time several backends in turns, so that a busy machine slows all of them alike, and compare them by round."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from export.latency.backends import Spec
from export.latency.worker import Worker

REST_SECONDS = 0.05  # idle thread pools spin for some milliseconds before they sleep


@dataclass
class Timing:
    """Times of one backend.

    Attributes:
        spec: What was timed.
        rounds: Milliseconds of each call, by round.
        cpu_rounds: Processor time of each call, all threads together: other programs change it little.
        facts: ``cold_start_ms``, ``load_ms`` and ``first_call_ms`` (see `Worker`), and ``peak_mb`` of its process.
        error: Why it could not be timed; then there are no rounds.
    """

    spec: Spec
    rounds: list[list[float]] = field(default_factory=list)
    cpu_rounds: list[list[float]] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def cpu_p50_ms(self) -> float:
        """Median processor time of a call."""
        return float(np.median([value for times in self.cpu_rounds for value in times]))

    @property
    def calls_ms(self) -> list[float]:
        """All calls of all rounds."""
        return [value for times in self.rounds for value in times]

    def percentiles(self) -> dict[str, float]:
        """Return p50, p90, p95 and p99 in milliseconds, and images a second at the median."""
        p50, p90, p95, p99 = np.percentile(self.calls_ms, [50, 90, 95, 99]).tolist()
        rate = 1e3 * int(self.spec["batch"]) / p50
        return {"p50_ms": p50, "p90_ms": p90, "p95_ms": p95, "p99_ms": p99, "images_per_s": rate}


class Ratio(NamedTuple):
    """How many times faster one backend is than another: median and quartiles over rounds."""

    median: float
    low: float
    high: float


def speed_ratio(slow: Timing, fast: Timing, *, cpu: bool = False) -> Ratio:
    """Compare the median times per image of two backends, the reference first, that were timed in the same rounds.

    `cpu` compares processor times, which is fair for backends that were given one thread.
    """
    rounds = (slow.cpu_rounds, fast.cpu_rounds) if cpu else (slow.rounds, fast.rounds)
    each = [np.median(reference) / np.median(own) for reference, own in zip(*rounds, strict=True)]
    scale = fast.spec["batch"] / slow.spec["batch"]
    low, median, high = (scale * np.percentile(each, [25, 50, 75])).tolist()
    return Ratio(median, low, high)


def time_interleaved(specs: Mapping[str, Spec], rounds: int, repeats: int) -> dict[str, Timing]:
    """Time backends in turns, each in its own process, with so many repeated calls a round.

    A backend that fails to load or dies has its `error` set and no rounds; the others are still timed.
    """
    timings = {name: Timing(dict(spec)) for name, spec in specs.items()}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, timing in timings.items():
            try:
                workers[name] = stack.enter_context(Worker(timing.spec))
                timing.facts = workers[name].facts
            except RuntimeError as error:
                timing.error = str(error)
        for number in range(rounds):
            # Every other round backwards: no backend always follows the same one.
            for name in list(workers) if number % 2 == 0 else list(reversed(workers)):
                time.sleep(REST_SECONDS)
                try:
                    answer = workers[name].ask(repeats=repeats)
                except RuntimeError as error:
                    timings[name] = Timing(timings[name].spec, error=str(error))
                    del workers[name]
                    continue
                timings[name].rounds.append(answer["ms"])
                timings[name].cpu_rounds.append(answer["cpu_ms"])
                timings[name].facts["peak_mb"] = answer["peak_mb"]
    return timings


def live_scans(stages: Mapping[str, Spec], rates: Sequence[float], seconds: float) -> list[dict[str, Any]]:
    """Simulate live scans with each end-to-end stage, at each rate (frames a second).

    Returns:
        Scans (see `export.latency.worker.play_scan`) with their ``encoder``; an ``error`` replaces the counts of what
        broke.
    """
    return [
        {"encoder": spec["encoder"], "frames_per_second": rate, **_asked(spec, frames_per_second=rate, seconds=seconds)}
        for spec in stages.values()
        if spec["backend"] == "end-to-end"
        for rate in rates
    ]  # fmt: skip


def thermal_drifts(backends: Mapping[str, Spec], seconds: float) -> list[dict[str, Any]]:
    """Call encoders without a pause for some seconds each.

    Returns:
        For each, ``encoder``, number of ``calls``, medians of the first and last fifth of them, and ``drift``, their
        relative difference; an ``error`` replaces the figures of what broke.
    """
    drifts = []
    for name, spec in backends.items():
        answer = _asked(spec, seconds=seconds)
        if times := answer.get("ms"):
            fifth = max(1, len(times) // 5)
            start, end = float(np.median(times[:fifth])), float(np.median(times[-fifth:]))
            medians = {"first_fifth_p50_ms": start, "last_fifth_p50_ms": end, "drift": end / start - 1}
            answer = {"seconds": seconds, "calls": len(times), **medians}
        drifts.append({"encoder": name, **answer})
    return drifts


def _asked(spec: Spec, **command: float) -> dict[str, Any]:
    """Return what a new worker answers to one command (see `Worker.ask`), or its ``error``."""
    try:
        with Worker(spec) as worker:
            return worker.ask(**command)
    except RuntimeError as error:
        return {"error": str(error)}
