"""One frame through the full-size student's image tower: the authors' way against what is exported.

Usage: python -m benchmarks.inference [--model random:MobileCLIP2-S0] [--sessions 3] [--rounds 5] [--repeats 6]

The baseline is PyTorch eager, not reparameterised. Every backend has a process of its own, a fresh one in each
session, and they are timed in turns (`export.latency.interleave`); ratios are taken within a turn. Random weights:
speed does not depend on them. Quality of int8 is judged on trained students, in the parity ledger of `make export`.
The limit is the machine's own matrix product.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._record import Row, finish, make_row, not_run, parser_of
from experiments.latency import open_subject
from export.latency.backends import OPENVINO_PRECISIONS, openvino_call
from export.latency.interleave import Timing, time_interleaved
from export.latency.machine import image_cost, instructions
from export.latency.session import what_holds_back
from export.latency.specs import backend_specs, matmul_peaks, matmul_specs, share_of_peak
from models import fused_copy

BASELINE = "torch-eager"
LAYERS = {
    "Convolution": "convolutions",
    "GroupConvolution": "grouped convolutions",
    "FullyConnected": "products of attention and heads",
    "MatMul": "products of attention and heads",
    "Subgraph": "element-wise steps",
    "Eltwise": "element-wise steps",
}  # OpenVINO's names of what a FastViT spends time on
TARGETS = {"onnxruntime": 3.0, "openvino-bf16": 6.0, "openvino-int8": 7.0}


def row(name: str, timing: Timing, baseline: Timing, gmacs: float, peaks: dict[str, float]) -> dict[str, Any]:
    """Return one backend's figures: ``ms`` and ``ratios`` have one number a turn."""
    if timing.error:
        return {"error": timing.error}
    own, theirs = ([float(np.median(calls)) for calls in found.rounds] for found in (timing, baseline))
    times = timing.percentiles()
    return {
        **times,
        "ms": own,
        "ratios": [slow / fast for slow, fast in zip(theirs, own, strict=True)],
        **share_of_peak(name, times["p50_ms"], gmacs, peaks),
    }


def time_sessions(specs: dict[str, Any], sessions: int, rounds: int, repeats: int) -> dict[str, Timing]:
    """Time backends in several sets of fresh processes, so that the spread holds what differs between those."""
    found = time_interleaved(specs, rounds, repeats)
    for _ in range(sessions - 1):
        for name, timing in time_interleaved(specs, rounds, repeats).items():
            found[name].rounds += timing.rounds
            found[name].error = found[name].error or timing.error
    return found


def measure(model: str, threads: int, sessions: int, rounds: int, repeats: int) -> dict[str, Any]:
    """Time all backends with so many threads."""
    with tempfile.TemporaryDirectory() as folder:
        export, student = open_subject(model, Path(folder), short=False)
        if isinstance(student, str):
            raise ValueError(f"{model}: {student}")
        specs, absent = backend_specs(export, threads)
        products = matmul_specs(threads)
        timings = time_sessions({**specs, **products}, sessions, rounds, repeats)
        layers = {
            name: layer_shares(spec, OPENVINO_PRECISIONS[spec["backend"]])
            for name, spec in specs.items()
            if spec["backend"] in OPENVINO_PRECISIONS and not timings[name].error
        }
    peaks = matmul_peaks({name: timings[name] for name in products})
    cost = image_cost(fused_copy(student))
    rows = {name: row(name, timings[name], timings[BASELINE], cost["gmacs"], peaks) for name in specs}
    for name, shares in layers.items():
        rows[name]["layers"] = shares
    return {"threads": threads, "matmul_gflops": peaks, **cost, "backends": rows, "absent": absent}


def layer_shares(spec: dict[str, Any], precision: str, calls: int = 30) -> dict[str, float]:
    """Return the share of OpenVINO's time that each kind of layer takes, by its own counters, largest first."""
    call, request = openvino_call(spec, precision, PERF_COUNT=True)
    seconds: Counter[str] = Counter()
    for _ in range(calls):
        call()
        for layer in request.profiling_info:
            kind = LAYERS.get(layer.node_type, "all else")
            if kind == "convolutions" and "_1x1_" in layer.exec_type:
                kind = "1 x 1 convolutions"
            seconds[kind] += layer.real_time.total_seconds()
    return {kind: spent / seconds.total() for kind, spent in seconds.most_common()}


def rows_of(result: dict[str, Any]) -> list[Row]:
    """Return the table's rows of one number of threads; a backend without figures or target has none."""
    rows = []
    eager = np.array(result["backends"][BASELINE]["ms"]) / 1e3
    reasons = what_holds_back(result["backends"], instructions())
    absent = {name: {"error": why} for name, why in result["absent"].items() if name in TARGETS}
    for name, figures in (result["backends"] | absent).items():
        if name == BASELINE:
            continue
        title = (
            "inference",
            f"{name}, batch 1, {result['threads']} threads",
            "times faster than PyTorch eager",
        )
        if "error" in figures:
            rows.append(not_run(*title, figures["error"], TARGETS.get(name)))
            continue
        layers = [f"{kind} {share:.0%}" for kind, share in figures.get("layers", {}).items() if share >= 0.05]
        reason = reasons[name] + (f", and spends its time on {', '.join(layers)}" if layers else "")
        seconds = np.array(figures["ms"]) / 1e3
        found = make_row(
            *title,
            figures["ratios"],
            target=TARGETS.get(name),
            seconds={"authors": eager, name: seconds},
            limit=f"what {figures['arithmetic']} matrix products alone would take",
            limit_values=seconds / np.median(seconds) / figures["share_of_matmul_peak"],
            note=f"{figures['p50_ms']:.1f} ms",
            reason=reason,
        )
        rows.append(found)
    return rows


def main() -> None:
    parser = parser_of("inference", __doc__)
    parser.add_argument(
        "--model", default="random:MobileCLIP2-S0", help="checkpoint, export folder, or random:NAME"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1])
    parser.add_argument("--sessions", type=int, default=3, help="sets of fresh processes")
    parser.add_argument("--rounds", type=int, default=5, help="turns of a session")
    parser.add_argument("--repeats", type=int, default=6, help="calls of a turn")
    options = parser.parse_args()
    if options.quick:
        options.sessions, options.rounds, options.repeats = 1, 2, 1
    try:
        results = [
            measure(options.model, threads, options.sessions, options.rounds, options.repeats)
            for threads in options.threads
        ]
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    rows = [row for result in results for row in rows_of(result)]
    finish("inference", rows, options, model=options.model, results=results)


if __name__ == "__main__":
    main()
