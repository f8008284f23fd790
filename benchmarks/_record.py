"""What every benchmark shares: interleaved timing, spreads, rows of one shape, and the file they go to."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.results import git_commit
from export.latency.machine import machine_facts

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]
Spread = dict[str, float]


def spread(values: Any) -> Spread:
    """Return median, 10th and 90th percentile."""
    low, median, high = np.percentile(np.asarray(values, dtype=float), [10, 50, 90])
    return {"median": float(median), "p10": float(low), "p90": float(high)}


def synchronise(device: str) -> None:
    """Wait for a GPU, so that the clock sees its work."""
    if device != "cpu":
        torch.cuda.synchronize()


def interleave(
    ways: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu", warm: bool = True
) -> dict[str, np.ndarray]:
    """Time ways of doing one thing in turns, so that a busy machine slows all of them alike.

    Args:
        ways: Name -> function without arguments.
        rounds: Number of turns; every other one runs backwards, so that no way always follows the same one.
        device: What has to be waited for.
        warm: Run each way once before.

    Returns:
        Name -> seconds of each round. Ratios are to be taken within a round.
    """
    for run in ways.values() if warm else ():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else list(reversed(ways)):
            synchronise(device)
            start = time.perf_counter()
            ways[name]()
            synchronise(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def make_row(
    stage: str,
    case: str,
    measure: str,
    values: Any,
    *,
    target: float | None = None,
    better: str = "higher",
    seconds: Mapping[str, Any] | None = None,
    limit: str = "",
    limit_values: Any = None,
    note: str = "",
    reason: str = "",
) -> Row:
    """Return one row of the table.

    Args:
        stage: What is measured.
        case: At which size.
        measure: Meaning of the number, "times faster than the authors' way" for example.
        values: The number in each round.
        target: What it must reach.
        better: Whether it must be "higher" or "lower".
        seconds: Way -> seconds of each round.
        limit: What bounds it.
        limit_values: Our time as a multiple of that bound, in each round.
        note: What a reader has to know.
        reason: What holds it back, shown beside a missed target; None for what follows from the limit.
    """
    return {
        "stage": stage,
        "case": case,
        "measure": measure,
        "value": spread(values),
        "target": target,
        "better": better,
        "seconds": {name: spread(times) for name, times in (seconds or {}).items()},
        "limit": limit,
        "times_limit": None if limit_values is None else spread(limit_values),
        "note": note,
        "reason": reason,
    }


def not_run(
    stage: str, case: str, measure: str, why: str, target: float | None = None, better: str = "higher"
) -> Row:
    """Return the row of what could not be measured here, so that its target is not forgotten.

    Args:
        stage: As for `make_row`.
        case: As for `make_row`.
        measure: As for `make_row`.
        why: What is missing on this machine.
        target: What it would have to reach.
        better: Whether it must be "higher" or "lower".
    """
    why = " ".join(why.replace("|", "/").split())  # one cell of the table
    row = make_row(stage, case, measure, [0.0], target=target, better=better, reason=why)
    return row | {"value": None}


def met(row: Row) -> bool | None:
    """Say whether the median reaches the target; None without one, and where nothing was measured."""
    if row["target"] is None or row["value"] is None:
        return None
    median = row["value"]["median"]
    return bool(median >= row["target"] if row["better"] == "higher" else median <= row["target"])


def number(value: float) -> str:
    """Write a number with three digits that count."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def line(row: Row) -> str:
    """Return a row as text."""
    if row["value"] is None:
        goal = "" if row["target"] is None else f", target {row['target']:g}"
        return f"{row['stage']}, {row['case']}: not run: {row['reason']} ({row['measure']}{goal})"
    value, state = row["value"], {True: "met", False: "MISSED", None: ""}[met(row)]
    goal = "" if row["target"] is None else f", target {row['target']:g} {state}"
    edge = "" if row["times_limit"] is None else f"; {number(row['times_limit']['median'])} x {row['limit']}"
    return (
        f"{row['stage']}, {row['case']}: {number(value['median'])} "
        f"({number(value['p10'])}-{number(value['p90'])}) {row['measure']}{goal}{edge}"
    )


def measured_commit() -> str | None:
    """Return the commit; ``-dirty`` when any file differs but results and their page, which a run itself writes."""
    commit = git_commit()
    if commit is None or not commit.endswith("-dirty"):
        return commit
    others = [".", ":!benchmarks/results", ":!docs/performance*"]
    done = subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", *others], check=False)
    return commit if done.returncode else commit.removesuffix("-dirty")


def write(name: str, rows: list[Row], quick: bool, path: Path | None = None, **details: Any) -> Path:
    """Write results with machine, versions and commit, whole or not at all; return the path."""
    path = path or RESULTS / f"{name}.json"
    record = {
        "benchmark": name,
        "quick": quick,
        "machine": machine_facts() | {"threads": torch.get_num_threads()},
        "commit": measured_commit(),
        "rows": rows,
        "details": details,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def _has_figures(path: Path) -> bool:
    return path.is_file() and any(row["value"] for row in json.loads(path.read_text())["rows"])


def command(name: str, measure: Callable[[bool], list[Row]], about: str | None) -> None:
    """Be the command line of a benchmark: ``--quick`` for a smoke test, ``--out`` for another file.

    Quick figures say that the code runs, and go to a file only where ``--out`` names one.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, help=f"file of the results ({RESULTS.name}/{name}.json)")
    options = parser.parse_args()
    rows = measure(options.quick)
    for row in rows:
        print(line(row), flush=True)
    path = options.out or RESULTS / f"{name}.json"
    if not options.out and all(row["value"] is None for row in rows) and _has_figures(path):
        print(f"{path}: kept, with figures of a machine that could run it")
    elif options.out or not options.quick:
        print(f"written to {write(name, rows, options.quick, options.out)}")
