"""Live scanning: frames arrive at a fixed rate; one that is replaced before it is looked at is dropped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def run_scene(
    call: Callable[[], Any],
    frames_per_second: float,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, float]:
    """Process a stream as an app does: always the newest frame, as soon as the last one is done.

    Args:
        call: Processes one frame.
        frames_per_second: Rate of the stream.
        seconds: Length of the stream.
        clock: Seconds since some moment.
        sleep: Waits so many seconds.

    Returns:
        ``frames`` that arrived, ``processed``, ``dropped`` (arrived, but a newer one came before the app was
        free), and the delay from a frame's arrival to its answer, ``delay_p50_ms`` and ``delay_p95_ms``.
    """
    total = round(frames_per_second * seconds)
    delays: list[float] = []
    begun = clock()
    last = -1
    while last < total - 1:
        newest = min(int((clock() - begun) * frames_per_second), total - 1)
        if newest == last:  # nothing new: wait for the next arrival
            wait = (last + 1) / frames_per_second - (clock() - begun)
            if wait > 0:
                sleep(wait)
            newest = last + 1
        call()
        delays.append(1e3 * (clock() - begun - newest / frames_per_second))
        last = newest
    p50, p95 = np.percentile(delays, [50, 95]).tolist()
    return {
        "frames_per_second": frames_per_second,
        "frames": total,
        "processed": len(delays),
        "dropped": total - len(delays),
        "delay_p50_ms": p50,
        "delay_p95_ms": p95,
    }
