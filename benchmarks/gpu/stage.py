"""One stage of the check: its rows, targets, clocks and models.

With ``quick`` everything runs on the CPU at small sizes; the figures then mean nothing.
"""

from __future__ import annotations

import gc
import math
import resource
import subprocess
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._material import STUDENT, TEACHER, published
from benchmarks._record import Row
from models import DualEncoder
from models.files import package_versions, write_json

STEP, LOSS, TRAINING, EVALUATION = "GPU step", "GPU loss", "GPU training", "GPU evaluation"
FASTER, BARE = "times the images/s of the authors' way", "of the bare step's images/s"
PRODUCTS = "of the card's measured bf16 matrix products"
GOALS = {
    "tests": Row("GPU tests", "pytest -m gpu", "of the tests pass", [], 1.0),
    "live": Row(STEP, "live teacher, compiled", FASTER, [], 1.5),
    "cached": Row(STEP, "teacher cache, compiled", FASTER, [], 3.0),
    "share": Row(STEP, "live teacher, compiled", PRODUCTS, [], 0.45),
    "loss": Row(LOSS, "fused, batch 16,384, float32", "times faster than the authors' way", [], 4.0),
    "loss memory": Row(LOSS, "chunked, batch 65,536", "GB at the peak", [], 3.0, "lower"),
    "loss pair": Row(LOSS, "chunked, batch 65,536", "times the seconds a pair at 16,384", [], 1.0, "lower"),
    "shards": Row(TRAINING, "PNG shards", BARE, [], 0.9),
    "squares": Row(TRAINING, "image files, cached squares", BARE, [], 0.9),
    "validity": Row(EVALUATION, "HC18 validity, student, float32", "s an epoch", [], 10.0, "lower"),
}  # fmt: skip
"""Rows with a target, before they are measured."""


class Stage:
    """Rows and facts of one stage, in ``NAME.json`` of the folder `out` as soon as they are measured.

    Args:
        name: The stage.
        out: Folder of all results.
        quick: Small sizes on the CPU.

    Attributes:
        device: "cuda", or "cpu" for a quick run.
        backend: Of ``torch.compile``.
        facts: What other stages and the table need: the card, its peak, images/s, ms by part.
    """

    def __init__(self, name: str, out: Path, quick: bool) -> None:
        self.name, self.out, self.quick = name, out, quick
        self.device, self.backend = ("cpu", "eager") if quick else ("cuda", "inductor")
        self.rows: list[Row] = []
        self.facts: dict[str, Any] = {"card": card(self.device)}

    @property
    def batch(self) -> int:
        """Pairs of a training step: 512, or the power of two below it that fits the card at 0.13 GB a pair."""
        if self.quick:
            return 4
        return min(512, 2 ** int(math.log2(self.facts["card"]["memory_gb"] / 0.13)))

    def add(self, *rows: Row) -> None:
        """Add rows, and write all."""
        self.rows += rows
        content = {"facts": self.facts, "rows": [asdict(row) for row in self.rows]}
        write_json(self.out / f"{self.name}.json", content)
        for row in rows:
            print(row.line(), flush=True)

    def goal(self, name: str, values: Iterable[float], **more: Any) -> None:
        """Add the measured row of a goal, in a quick run without its target."""
        target = None if self.quick else GOALS[name].target
        self.add(replace(GOALS[name], values=list(values), target=target, **more))

    def measured(self, case: str, run: Callable[[], None]) -> bool:
        """Run one measurement, which adds its own rows; an exception becomes a row with its reason.

        Returns:
            Whether it succeeded.
        """
        try:
            run()
            return True
        except Exception as error:  # the other measurements go on
            traceback.print_exc()
            reason = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"[:200]
        release()
        self.add(Row(f"GPU {self.name}", case, "time", [], reason=reason))
        return False

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


def milliseconds(times: Mapping[str, np.ndarray]) -> str:
    """Return the median of each way for a note."""
    return ", ".join(f"{name} {1e3 * float(np.median(seconds)):.3g} ms" for name, seconds in times.items())


def student(quick: bool) -> DualEncoder:
    """Return the published student, or a small one, with random weights."""
    return published(STUDENT, quick, image_size=64 if quick else None)


def teacher(quick: bool) -> DualEncoder:
    """Return the published teacher, or a small one, with random weights."""
    return published(TEACHER, quick)


def release() -> None:
    """Free unused memory, also that of cycles."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def card(device: str) -> dict[str, Any]:
    """Return name, memory, driver and versions; with "cpu" the versions only."""
    found: dict[str, Any] = {"versions": {"cuda": torch.version.cuda, **package_versions("torch", "triton")}}
    if device == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {"name": about.name, "memory_gb": about.total_memory / 1e9}
        with suppress(OSError, ValueError, IndexError, subprocess.SubprocessError):
            found["driver"], found["power_limit"] = ask_driver("driver_version", "power.limit")
    return found


def ask_driver(*fields: str) -> list[str]:
    """Return what nvidia-smi says about the card that PyTorch calls the first."""
    card = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}"  # nvidia-smi ignores CUDA_VISIBLE_DEVICES
    command = ["nvidia-smi", card, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.splitlines()[0].split(", ")
