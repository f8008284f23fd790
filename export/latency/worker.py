"""Worker process that runs one backend; commands and answers are lines of JSON.

Thread pools of two runtimes in one process disturb each other, and so does memory that another runtime left
behind. An idle worker does not use the processor.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from export.latency.backends import Call, Spec, load

ROOT = Path(__file__).resolve().parents[2]
WARM_UP_CALLS = 5
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
"""The Makefile's settings of glibc's allocator, which speed up whole commands. An app has neither."""


def main() -> None:
    """Load the backend given on the command line, then answer commands until the input ends."""
    sys.path.append(str(Path.cwd()))  # for a student's class of one's own; last, as in the parent
    answer, sys.stdout = sys.stdout, sys.stderr  # libraries that print must not spoil the answers

    def reply(**facts: Any) -> None:
        print(json.dumps(facts), file=answer, flush=True)

    begun = time.perf_counter()
    try:
        call = load(json.loads(sys.argv[1]))
        loaded = time.perf_counter()
        call()
    except Exception as error:  # the parent reports it as the row's reason
        reply(error=f"{type(error).__name__}: {error}"[:300])
        return
    # A cold start ends here.
    reply(load_ms=1e3 * (loaded - begun), first_call_ms=1e3 * (time.perf_counter() - loaded))
    for _ in range(WARM_UP_CALLS):
        call()
    reply(warm=True)
    for line in sys.stdin:
        reply(**_execute(call, json.loads(line)))


def _execute(call: Call, command: dict[str, Any]) -> dict[str, Any]:
    """Time ``repeats`` calls, or calls for ``seconds``, or play a live scan; one untimed call comes first."""
    call()
    if "frames_per_second" in command:
        return play_scan(call, command["frames_per_second"], command["seconds"])
    times: list[float] = []
    cpu: list[float] = []
    end = time.perf_counter() + command.get("seconds", 0.0)
    while len(times) < command.get("repeats", 0) or time.perf_counter() < end:
        begun, worked = time.perf_counter(), time.process_time()
        call()
        cpu.append(1e3 * (time.process_time() - worked))
        times.append(1e3 * (time.perf_counter() - begun))
    return {"ms": times, "cpu_ms": cpu, "peak_mb": _peak_memory_mb()}


def play_scan(
    call: Call,
    frames_per_second: float,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, float]:
    """Simulate a live scan of some seconds: process the newest frame as soon as the last one is done, as an app does.

    Returns:
        ``frames_per_second``; ``frames`` that arrived, ``processed``, ``dropped`` (replaced by a newer one before
        the app was free); and the delay from a frame's arrival to its answer, ``delay_p50_ms`` and ``delay_p95_ms``.
    """
    total = round(frames_per_second * seconds)
    delays: list[float] = []
    begun, last = clock(), -1
    while last < total - 1:
        newest = min(int((clock() - begun) * frames_per_second), total - 1)
        if newest == last:  # nothing new: wait for the next arrival
            sleep(max(0.0, (last + 1) / frames_per_second - (clock() - begun)))
            newest = last + 1
        call()
        delays.append(1e3 * (clock() - begun - newest / frames_per_second))
        last = newest
    p50, p95 = np.percentile(delays, [50, 95]).tolist()
    counts = {"frames": total, "processed": len(delays), "dropped": total - len(delays)}
    return {"frames_per_second": frames_per_second, **counts, "delay_p50_ms": p50, "delay_p95_ms": p95}


def _peak_memory_mb() -> float:
    """Return this process's peak resident memory."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux its peak is inherited from the parent, which had PyTorch in memory.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # in bytes on macOS


class Worker:
    """Parent's side of a worker process, which runs without the Makefile's allocator settings.

    Args:
        spec: See `export.latency.backends.load`.

    Attributes:
        facts: Milliseconds: ``cold_start_ms`` from the start of the process to the first result, of which ``load_ms``
            are import, read and compile, and ``first_call_ms`` the first call.

    Raises:
        RuntimeError: The backend could not be loaded, or (from `ask`) its process died.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        begun = time.perf_counter()
        here = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "export.latency.worker", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={name: value for name, value in os.environ.items() if name not in ALLOCATOR}
            | {"PYTHONPATH": os.pathsep.join([str(ROOT), *here]), "PYTHONSAFEPATH": "1"},
        )
        try:
            loaded = self._answer()
            self.facts = {"cold_start_ms": 1e3 * (time.perf_counter() - begun), **loaded}
            self._answer()  # wait for the warm-up: it must not disturb the next worker's cold start
        except BaseException:
            self.__exit__()
            raise

    def ask(self, **command: float) -> dict[str, Any]:
        """Time calls (``repeats`` or ``seconds``), or simulate a live scan (``frames_per_second`` and ``seconds``).

        Returns:
            ``ms`` of each call, ``cpu_ms``, the processor time of all its threads, and ``peak_mb``, the process's peak
            resident memory; or what `play_scan` returns.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead, which `_answer` reports
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        facts: dict[str, Any] = json.loads(line) if line else {"error": "its process ended without an answer"}
        if "error" in facts:
            raise RuntimeError(f"{self.spec['backend']}: {facts['error']}")
        return facts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    main()
