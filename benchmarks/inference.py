"""One frame through the full-size student's image tower: the authors' way against what is exported.

Usage: python -m benchmarks.inference [--model random:MobileCLIP2-S0] [--rounds 15] [--repeats 6]

The baseline is PyTorch eager, not reparameterised. Every backend has a process of its own and they are timed
in turns (`export.latency.interleave`); ratios are taken within a turn. Random weights: speed does not depend
on them. Quality of int8 is judged on trained students, in the parity ledger of `make export`. The limit is the
machine's own matrix product.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.latency import open_subject
from experiments.results import git_commit
from export.latency.interleave import Timing, speed_ratio, time_interleaved
from export.latency.machine import image_cost, machine_facts, matmul_gflops
from export.latency.session import backend_specs
from models import fused_copy

RESULTS = Path(__file__).parent / "results" / "inference.json"
BASELINE = "torch-eager"
TARGETS = {"onnxruntime": 3.0, "openvino-bf16": 6.0, "openvino-int8": 7.0}


def row(timing: Timing, baseline: Timing, gmacs: float, peak_gflops: float) -> dict[str, Any]:
    """Return one backend's figures."""
    if timing.error:
        return {"error": timing.error}
    times = timing.percentiles()
    share = 2 * gmacs / (times["p50_ms"] / 1e3) / peak_gflops
    return {**times, "ratio": asdict(speed_ratio(baseline, timing)), "share_of_matmul_peak": share}


def measure(model: str, threads: int, rounds: int, repeats: int) -> dict[str, Any]:
    """Time all backends with so many threads."""
    with tempfile.TemporaryDirectory() as folder:
        export, student = open_subject(model, Path(folder), short=False)
        specs, absent = backend_specs(export, threads)
        matmul = {
            "backend": "matmul",
            "threads": threads,
            "batch": 1,
            "side": student.preprocessing.image_size,
        }
        timings = time_interleaved({**specs, "matmul": matmul}, rounds, repeats)
    peak = matmul_gflops(timings["matmul"].percentiles()["p50_ms"])
    cost = image_cost(fused_copy(student))
    rows = {name: row(timings[name], timings[BASELINE], cost["gmacs"], peak) for name in specs}
    return {"threads": threads, "matmul_gflops": peak, **cost, "backends": rows, "absent": absent}


def markdown(result: dict[str, Any]) -> str:
    """Return the table of one number of threads."""
    lines = [
        f"{result['threads']} thread(s), {result['gmacs']:.2f} GMACs, "
        f"matrix product {result['matmul_gflops']:.0f} GFLOP/s",
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
            f"{figures['share_of_matmul_peak']:.0%} |"
        )
    return "\n".join(lines)


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
    options = parser.parse_args()
    before = machine_facts()
    results = [
        measure(options.model, threads, options.rounds, options.repeats) for threads in options.threads
    ]
    for result in results:
        print(markdown(result), end="\n\n")
    record = {"machine": before, "commit": git_commit(), "model": options.model, "results": results}
    RESULTS.parent.mkdir(exist_ok=True)
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(RESULTS)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
