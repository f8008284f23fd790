"""One frame through the full-size student's image tower: the authors' way against what is exported.

Usage: python -m benchmarks.inference [--model random:MobileCLIP2-S0] [--rounds 15] [--repeats 6]

The baseline is PyTorch eager, not reparameterised. Every backend has a process of its own and they are timed
in turns (`export.latency.interleave`); ratios are taken within a turn. Random weights: speed does not depend
on them. Quality of int8 is judged on trained students, in the parity ledger of `make export`. The limit is the
machine's own matrix product.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks._record import Row, make_row, not_run, spread, write
from experiments.latency import open_subject
from export.latency.backends import OPENVINO_PRECISIONS, openvino_call
from export.latency.interleave import Timing, speed_ratio, time_interleaved
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
    """Return one backend's figures."""
    if timing.error:
        return {"error": timing.error}
    times = timing.percentiles()
    share = share_of_peak(name, times["p50_ms"], gmacs, peaks)
    return {**times, "ratio": asdict(speed_ratio(baseline, timing)), **share}


def measure(model: str, threads: int, rounds: int, repeats: int) -> dict[str, Any]:
    """Time all backends with so many threads."""
    with tempfile.TemporaryDirectory() as folder:
        export, student = open_subject(model, Path(folder), short=False)
        if isinstance(student, str):
            raise ValueError(f"{model}: {student}")
        specs, absent = backend_specs(export, threads)
        products = matmul_specs(threads)
        timings = time_interleaved({**specs, **products}, rounds, repeats)
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


def markdown(result: dict[str, Any]) -> str:
    """Return the table of one number of threads."""
    lines = [
        f"{result['threads']} thread(s), {result['gmacs']:.2f} GMACs, "
        "matrix product " + ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in result["matmul_gflops"].items()),
        "",
        f"| backend | p50 ms | p95 ms | times {BASELINE} (quartiles) | target | of matmul peak |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, figures in result["backends"].items():
        if "error" in figures:
            lines.append(f"| {name} | {figures['error']} | | | | |")
            continue
        ratio, target = figures["ratio"], TARGETS.get(name)
        lines.append(
            f"| {name} | {figures['p50_ms']:.1f} | {figures['p95_ms']:.1f} | {ratio['median']:.2f} "
            f"({ratio['low']:.2f}-{ratio['high']:.2f}) | {'' if target is None else f'{target:g}'} | "
            f"{figures['share_of_matmul_peak']:.0%} ({figures['arithmetic']}) |"
        )
    return "\n".join(lines)


def rows_of(result: dict[str, Any]) -> list[Row]:
    """Return the table's rows of one number of threads; a backend without figures or target has none."""
    rows = []
    eager = result["backends"][BASELINE]["p50_ms"] / 1e3
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
        ratio = figures["ratio"]
        layers = [f"{kind} {share:.0%}" for kind, share in figures.get("layers", {}).items() if share >= 0.05]
        reason = reasons[name] + (f", and spends its time on {', '.join(layers)}" if layers else "")
        row = make_row(
            *title,
            [ratio["median"]],
            target=TARGETS.get(name),
            limit=f"what {figures['arithmetic']} matrix products alone would take",
            limit_values=[1 / figures["share_of_matmul_peak"]],
            note=f"{figures['p50_ms']:.1f} ms; spread: quartiles of turns",
            reason=reason,
        )
        row["value"] = {"median": ratio["median"], "p10": ratio["low"], "p90": ratio["high"]}
        seconds = figures["p50_ms"] / 1e3
        row["seconds"] = {"authors": spread([eager]), name: spread([seconds])}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="random:MobileCLIP2-S0", help="checkpoint, export folder, or random:NAME"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="two turns, to see that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.repeats = 2, 1
    results = [
        measure(options.model, threads, options.rounds, options.repeats) for threads in options.threads
    ]
    for result in results:
        print(markdown(result), end="\n\n")
    if options.out or not options.quick:
        rows = [row for result in results for row in rows_of(result)]
        path = write("inference", rows, options.quick, options.out, model=options.model, results=results)
        print(f"written to {path}")


if __name__ == "__main__":
    main()
