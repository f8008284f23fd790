"""Shared by all stages: timing in turns, and the rows of the table with their rounds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def in_turns(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call functions in turns, every other turn in reverse order; return name -> results of all rounds."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways) if turn % 2 == 0 else list(reversed(ways)):
            found[name].append(ways[name]())
    return found


def seconds_of(run: Callable[[], Any], repeat: int = 1) -> float:
    """Return the seconds of one of `repeat` calls, on the GPU to the end of its work there."""
    torch = sys.modules.get("torch")  # what needs no PyTorch is timed without
    wait = torch.cuda.synchronize if torch and torch.cuda.is_initialized() else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    wait()
    return (time.perf_counter() - start) / repeat


def interleave(
    ways: Mapping[str, Callable[[], Any]], rounds: int, repeat: int = 1, warm: bool = True
) -> dict[str, np.ndarray]:
    """Time functions in turns, so that a busy machine slows all of them alike.

    Args:
        ways: Name -> function without arguments.
        rounds: Number of turns, see `in_turns`.
        repeat: Calls of each function in a turn, whose mean counts.
        warm: Call each function once before.

    Returns:
        Name -> seconds of each round. Take ratios within a round.
    """
    for run in ways.values() if warm else ():
        run()
    times = in_turns({name: partial(seconds_of, run, repeat) for name, run in ways.items()}, rounds)
    return {name: np.array(values) for name, values in times.items()}


def peak_numbers(run: Callable[[], Any]) -> float:
    """Return the peak of float32 numbers allocated on the CPU during one call."""
    import torch

    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    held = np.cumsum([e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"])
    return float(held.max()) / 4


@dataclass
class Row:
    """One figure of the table.

    Attributes:
        stage: What is measured.
        case: Size or setting.
        measure: Meaning of the number, such as "times faster than the authors' way".
        values: The number in each round; empty where this machine cannot measure it (`reason` says why).
        target: Required value of the median.
        better: "higher" or "lower".
        seconds: Way -> seconds of each round.
        limit: What bounds the speed.
        times_limit: Our time as a multiple of that bound, in each round.
        note: Remark for the reader.
        reason: Measured cause of a missed target; by default derived from the limit.
    """

    stage: str
    case: str
    measure: str
    values: Sequence[float]
    target: float | None = None
    better: str = "higher"
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    limit: str = ""
    times_limit: Sequence[float] = ()
    note: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        self.values, self.times_limit = [*map(float, self.values)], [*map(float, self.times_limit)]
        self.seconds = {way: [*map(float, times)] for way, times in self.seconds.items()}

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without a target or a measurement."""
        if self.target is None or not self.values:
            return None
        return self.median >= self.target if self.better == "higher" else self.median <= self.target

    def line(self) -> str:
        """Return the line of the Markdown table."""
        measured = f"not run: {self.reason} ({self.measure})"
        if self.values:
            low, high = map(number, np.percentile(self.values, [10, 90]))
            spread = "" if low == high else f" ({low}-{high})"
            measured = f"{number(self.median)}{spread} {self.measure}"
        goal = limit = ""
        if self.times_limit:
            limit = f"{number(np.median(self.times_limit))} x {self.limit}"
        if self.target is not None:
            sign = "at least" if self.better == "higher" else "at most"
            told = {None: "**not run**", True: "met", False: f"**missed**{self._cause()}"}[self.met]
            goal = f"{sign} {self.target:g}: {told}"
        cells = (self.stage, self.case, measured, goal, limit, self.note)
        return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"

    def _cause(self) -> str:
        """Return the measured cause of a missed target in brackets: its own, or what the limit would allow."""
        cause = self.reason
        if not cause and self.times_limit:
            times = float(np.median(self.times_limit))
            cause = f"it takes {number(times)} x {self.limit}"
            if self.measure.startswith("times faster"):
                cause += f", which alone would be {number(self.median * times)} {self.measure}"
        return f" ({cause})" if cause else ""


def number(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def pool(processes: Sequence[Sequence[Row]]) -> list[Row]:
    """Join the rounds of several processes, so that spreads include the differences between processes.

    Note and reason come from the process nearest to the pooled median. A row that one process could not run counts as
    not run.
    """
    rows = []
    for same in zip(*processes, strict=True):
        values = [*chain(*(row.values for row in same))]
        typical = min(same, key=lambda row: abs(row.median - np.median(values)) if row.values else -1)
        if typical.values:
            limits = [*chain(*(row.times_limit for row in same))]
            seconds = {way: [*chain(*(row.seconds[way] for row in same))] for way in typical.seconds}
            typical = replace(typical, values=values, times_limit=limits, seconds=seconds)
        rows.append(typical)
    return rows
