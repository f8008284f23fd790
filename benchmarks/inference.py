"""One frame through the full-size student's image tower: PyTorch eager against what is exported.

The baseline is PyTorch eager, not reparameterised. Every backend has its own process, a fresh one in each session,
and they are timed in turns (`export.latency.interleave`); ratios are taken within a turn. Random weights: speed does
not depend on them. The parity ledger of `make export` judges the quality of int8, on trained students. The limit is
the machine's own matrix product.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._record import Row, command, make_row, not_run
from experiments.commands.latency import open_subject
from export.latency.backends import backend_specs
from export.latency.interleave import Timing, time_interleaved
from export.latency.machine import (
    bottlenecks,
    matmul_peaks,
    matmul_specs,
    share_of_peak,
)
from models import fused_copy
from models.cost import image_cost

BASELINE = "torch-eager"
TARGETS = {"onnxruntime": 3.0, "openvino-bf16": 6.0, "openvino-int8": 7.0}


def time_sessions(specs: dict[str, Any], sessions: int, rounds: int, repeats: int) -> dict[str, Timing]:
    """Time backends in several sets of fresh processes and pool their rounds."""
    found = time_interleaved(specs, rounds, repeats)
    for _ in range(sessions - 1):
        for name, timing in time_interleaved(specs, rounds, repeats).items():
            found[name].rounds += timing.rounds
            found[name].error = found[name].error or timing.error
    return found


def measure(quick: bool, model: str, threads: int) -> list[Row]:
    sessions, rounds, repeats = (1, 2, 1) if quick else (3, 5, 6)
    with tempfile.TemporaryDirectory() as folder:
        export, student = open_subject(model, Path(folder), short=False)
        if isinstance(student, str):
            raise ValueError(f"{model}: {student}")
        specs, absent = backend_specs(export, threads)
        products = matmul_specs(threads)
        timings = time_sessions({**specs, **products}, sessions, rounds, repeats)
    peaks = matmul_peaks({name: timings[name] for name in products})
    gmacs = image_cost(fused_copy(student)).gmacs
    errors = {name: timings[name].error for name in specs if timings[name].error}
    shares = {
        name: share_of_peak(name, timings[name].percentiles()["p50_ms"], gmacs, peaks)
        for name in specs
        if name not in errors
    }
    seconds = {name: np.array([np.median(calls) for calls in timings[name].rounds]) / 1e3 for name in shares}
    reasons = bottlenecks(shares)
    missing = errors | {name: why for name, why in absent.items() if name in TARGETS}
    rows = []
    for name in [name for name in (*shares, *missing) if name != BASELINE]:
        title = "inference", f"{name}, batch 1, {threads} threads", "times faster than PyTorch eager"
        if name in missing:
            rows.append(not_run(*title, missing[name], TARGETS.get(name)))
            continue
        own = seconds[name]
        rows.append(
            make_row(
                *title, seconds[BASELINE] / own, target=TARGETS.get(name),
                seconds={"authors": seconds[BASELINE], name: own},
                limit=f"what {shares[name]['arithmetic']} matrix products alone would take",
                limit_values=own / np.median(own) / shares[name]["share_of_matmul_peak"],
                note=f"{timings[name].percentiles()['p50_ms']:.1f} ms", reason=reasons[name],
            )
        )  # fmt: skip
    return rows


OPTIONS = {
    "--model": {"default": "random:MobileCLIP2-S0", "help": "checkpoint, export folder, or random:NAME"},
    "--threads": {"type": int, "default": os.cpu_count() or 1},
}

if __name__ == "__main__":
    command("inference", measure, __doc__, OPTIONS)
