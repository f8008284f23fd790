"""One backend in a process of its own; commands and answers are lines of JSON.

Thread pools of two runtimes in one process disturb each other, and so does memory that another one left
behind. A worker that is not asked waits without using the processor.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from export.latency.backends import load
from export.latency.scene import run_scene

ROOT = Path(__file__).resolve().parents[2]
WARM_UP_CALLS = 5


def main() -> None:
    """Load the backend that the command line describes and obey commands until the input ends."""
    answer = sys.stdout
    sys.stdout = sys.stderr  # libraries that print must not spoil the answers
    begun = time.perf_counter()
    try:
        call = load(json.loads(sys.argv[1]))
        loaded = time.perf_counter()
        call()
    except Exception as error:  # the parent reports it as the row's reason
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), file=answer, flush=True)
        return
    first = time.perf_counter()
    facts = {"load_ms": 1e3 * (loaded - begun), "first_call_ms": 1e3 * (first - loaded)}
    print(json.dumps(facts), file=answer, flush=True)  # a cold start ends here
    for _ in range(WARM_UP_CALLS):
        call()
    print(json.dumps({"warm": True}), file=answer, flush=True)
    for line in sys.stdin:
        print(json.dumps(_obey(call, json.loads(line))), file=answer, flush=True)


def _obey(call: Any, command: dict[str, Any]) -> dict[str, Any]:
    """Time ``repeats`` calls, or calls for ``seconds``, or play a scene; one untimed call comes first."""
    call()
    if "frames_per_second" in command:
        return {"scene": run_scene(call, command["frames_per_second"], command["seconds"])}
    times: list[float] = []
    end = time.perf_counter() + command.get("seconds", 0.0)
    while len(times) < command.get("repeats", 0) or time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begun))
    return {"ms": times, "peak_mb": peak_memory_mb()}


def peak_memory_mb() -> float:
    """Return this process's peak resident memory."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux its peak is inherited from the parent, which had torch in memory.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


class Worker:
    """The parent's side of a worker, whose process has the allocator that an app has, not the Makefile's.

    Args:
        spec: See `export.latency.backends.load`.

    Raises:
        RuntimeError: The backend could not be loaded, or (from the methods) it died since; the message is its own.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        # Here: a worker's own process would pay for this import, in time and in memory.
        from export.latency.machine import ALLOCATOR

        self.spec = spec
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "export.latency.worker", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name not in ALLOCATOR},
        )
        try:
            facts = self._answer()
            self.cold_start_ms = 1e3 * (time.perf_counter() - begun)
            self._answer()  # warmed up: it must not disturb the next one's cold start
        except BaseException:
            self.close()
            raise
        self.load_ms: float = facts["load_ms"]
        self.first_call_ms: float = facts["first_call_ms"]
        self.peak_mb = 0.0

    def time(self, **command: float) -> list[float]:
        """Time ``repeats=N`` calls or ``seconds=S`` of calls, in milliseconds each."""
        facts = self._ask(command)
        self.peak_mb = facts["peak_mb"]
        times: list[float] = facts["ms"]
        return times

    def scene(self, frames_per_second: float, seconds: float) -> dict[str, float]:
        """Play a live scan; see `export.latency.scene.run_scene`."""
        result: dict[str, float] = self._ask({"frames_per_second": frames_per_second, "seconds": seconds})[
            "scene"
        ]
        return result

    def _ask(self, command: dict[str, float]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: the answer, which is none, says so
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

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(
                    BrokenPipeError
                ):  # what was written to a dead process stays in the buffer
                    stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


if __name__ == "__main__":
    main()
