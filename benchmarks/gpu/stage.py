"""What the stages share: clocks, guarded measurements, and rows that are on disk as soon as they exist.

With ``quick`` everything runs on the CPU at small sizes; the figures then mean nothing.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._material import STUDENT, TEACHER, published
from benchmarks._record import Row, in_turns
from benchmarks.gpu.goals import GOALS
from models import DualEncoder
from models.files import package_versions, write_json

SIDE = 64  # of the student's images in a quick run


class Stage:
    """One stage's rows and facts, in ``NAME.json`` of the folder `out`.

    Args:
        name: The stage.
        out: Folder of all results.
        quick: Small sizes on the CPU.
        seconds: Time that the stage may take.

    Attributes:
        device: "cuda", or "cpu" for a quick run.
        backend: Of ``torch.compile``.
        facts: What other stages and the table need: the card, its peak, images/s, ms by part.
    """

    def __init__(self, name: str, out: Path, quick: bool, seconds: float) -> None:
        self.name, self.out, self.quick = name, out, quick
        self.device, self.backend = ("cpu", "eager") if quick else ("cuda", "inductor")
        self.ends = time.monotonic() + seconds
        self.rows: list[Row] = []
        self.reached: set[str] = set()
        self.facts: dict[str, Any] = {"card": card(self.device)}

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.ends - time.monotonic()

    def add(self, *rows: Row) -> None:
        """Keep rows, and write all."""
        self.rows += rows
        write_json(
            self.out / f"{self.name}.json", {"facts": self.facts, "rows": [asdict(row) for row in self.rows]}
        )
        for row in rows:
            print(row.line(), flush=True)

    def goal(self, name: str, values: Iterable[float], **more: Any) -> None:
        """Add the measured row of a goal; figures of a quick run mean nothing, and it has no target."""
        self.reached.add(name)
        target = None if self.quick else GOALS[name].target
        self.add(replace(GOALS[name], values=list(values), target=target, **more))

    def measured(self, what: Row, run: Callable[[], None], *goals: str, needs: float = 0.0) -> bool:
        """Run one measurement; an exception becomes the reason of the rows that it leaves unmeasured.

        Args:
            what: Row to add if it fails and there are no goals.
            run: The measurement, which adds its own rows.
            goals: Goals that it adds.
            needs: Seconds that it takes; it is left out where fewer are left.

        Returns:
            Whether it succeeded.
        """
        reason = ""
        try:
            if self.left() < needs:
                reason = f"left out: it needs {needs:.0f} s and {self.left():.0f} s were left"
            else:
                run()
        except Exception as error:  # the other measurements go on
            reason = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"[:200]
            with (self.out / f"{self.name}.errors.log").open("a") as log:
                log.write(f"== {what.case}\n{traceback.format_exc()}\n")
        if reason:
            release()
            missing = [GOALS[name] for name in goals if name not in self.reached]
            self.add(*(replace(row, reason=reason) for row in (missing if goals else [what])))
        return not reason

    def seconds(self, run: Callable[[], Any]) -> float:
        """Return the seconds of one call, on a card between two events of its stream."""
        if self.device == "cpu":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        torch.cuda.synchronize()
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        run()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    def turns(
        self, ways: Mapping[str, Callable[[], Any]], rounds: int, repeat: int = 1, warm: int = 1
    ) -> dict[str, np.ndarray]:
        """Return the seconds of a call of each way in each round; a round calls it `repeat` times."""

        def again(run: Callable[[], Any]) -> None:
            for _ in range(repeat):
                run()

        for run in ways.values():
            for _ in range(warm):
                run()
        found = in_turns(
            {name: partial(self.seconds, partial(again, run)) for name, run in ways.items()}, rounds
        )
        return {name: np.array(values) / repeat for name, values in found.items()}

    def peak_gb(self, run: Callable[[], Any]) -> float:
        """Return the 10^9 bytes that a call allocates beyond what was there; on a CPU, the whole process's peak."""
        if self.device == "cpu":
            run()
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e9


def student(quick: bool) -> DualEncoder:
    """Return the published student, or a small one, with random weights."""
    return published(STUDENT, quick, image_size=SIDE if quick else None)


def teacher(quick: bool) -> DualEncoder:
    """Return the published teacher, or a small one, with random weights."""
    return published(TEACHER, quick)


class Parts:
    """Milliseconds between the named points of a step."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.points: list[tuple[str, Any]] = []
        self("")

    def __call__(self, name: str) -> None:
        """Mark the end of a part."""
        stamp: Any = time.perf_counter()
        if self.device == "cuda":
            stamp = torch.cuda.Event(enable_timing=True)
            stamp.record()
        self.points.append((name, stamp))

    def milliseconds(self) -> dict[str, float]:
        """Return the milliseconds of each part."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            return {name: a.elapsed_time(b) for (_, a), (name, b) in pairwise(self.points)}
        return {name: 1e3 * (b - a) for (_, a), (name, b) in pairwise(self.points)}


def release() -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def card(device: str) -> dict[str, Any]:
    """Return name, memory, driver and versions; with "cpu" without the card."""
    found: dict[str, Any] = {"versions": {"cuda": torch.version.cuda, **package_versions("torch", "triton")}}
    if device == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {"name": about.name, "memory_gb": about.total_memory / 1e9}
        with suppress(OSError, ValueError, IndexError, subprocess.SubprocessError):
            command = ["nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            found["driver"], found["power_limit"] = done.stdout.splitlines()[0].split(", ")
    return found


def peaks(stage: Stage) -> None:
    """Measure bf16 and float32 matrix products, TFLOP/s, and copies within the card and to it, GB/s."""
    side, size = (256, 2**20) if stage.quick else (8192, 2**30)
    host = torch.empty(size // 4, dtype=torch.uint8, pin_memory=stage.device == "cuda")
    block = torch.empty(size, dtype=torch.uint8, device=stage.device)
    there = torch.empty_like(block)
    target = torch.empty_like(host, device=stage.device)
    ways: dict[str, Callable[[], Any]] = {
        "copy": lambda: there.copy_(block),
        "to the card": lambda: target.copy_(host, non_blocking=True),
    }
    for kind in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=stage.device, dtype=kind) for _ in range(2))
        ways[str(kind).removeprefix("torch.")] = partial(torch.mm, a, b)
    times = {name: float(np.median(t)) for name, t in stage.turns(ways, 5, 5, warm=3).items()}
    stage.facts["peak"] = {
        "bf16_tflops": 2 * side**3 / times["bfloat16"] / 1e12,
        "float32_tflops": 2 * side**3 / times["float32"] / 1e12,
        "copy_gb_s": 2 * size / times["copy"] / 1e9,
        "to_card_gb_s": size / 4 / times["to the card"] / 1e9,
    }
    found = ", ".join(f"{name} {value:.4g}" for name, value in stage.facts["peak"].items())
    stage.add(
        Row(
            "GPU card", f"bf16 matrix product of side {side:,}", "TFLOP/s",
            [stage.facts["peak"]["bf16_tflops"]], note=found,
        )
    )  # fmt: skip
