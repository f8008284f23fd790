"""What every benchmark shares: interleaved timing, spreads, rows of one shape, and the file they go to.

A row keeps its rounds beside their spread, so that `python -m benchmarks` can pool those of several processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from benchmarks._turns import in_turns
from experiments.results import git_commit
from export.latency.machine import ALLOCATOR, machine_facts

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]
Record = dict[str, Any]
Spread = dict[str, float]
Key = tuple[str, str, str]
ONE_MINUS: Row = {"one_minus": True}
"""Marks a row whose value is 1 less a ratio of two times: noise moves it by a share of 1, however small it is."""


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
        rounds: Number of turns (see `in_turns`).
        device: What has to be waited for.
        warm: Run each way once before.

    Returns:
        Name -> seconds of each round. Ratios are to be taken within a round.
    """
    for run in ways.values() if warm else ():
        run()

    def timed(run: Callable[[], Any]) -> float:
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        return time.perf_counter() - start

    clocks = {name: partial(timed, run) for name, run in ways.items()}
    return {name: np.array(values) for name, values in in_turns(clocks, rounds).items()}


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
    return _with_spreads(
        {
            "stage": stage,
            "case": case,
            "measure": measure,
            "target": target,
            "better": better,
            "limit": limit,
            "note": note,
            "reason": reason,
            "rounds": {
                "value": _floats(values),
                "times_limit": None if limit_values is None else _floats(limit_values),
                "seconds": {name: _floats(times) for name, times in (seconds or {}).items()},
            },
        }
    )


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]


def _with_spreads(row: Row) -> Row:
    rounds = row["rounds"]
    limit = rounds["times_limit"]
    return row | {
        "value": spread(rounds["value"]),
        "times_limit": None if limit is None else spread(limit),
        "seconds": {name: spread(times) for name, times in rounds["seconds"].items()},
    }


def key(row: Row) -> Key:
    """Return what tells a row from all others."""
    return row["stage"], row["case"], row["measure"]


def pool(records: list[Record]) -> Record:
    """Join the rounds of several processes, so that spreads hold what differs between processes too.

    Notes and reasons are those of the process whose median is nearest to that of all; a row that one of them
    could not run counts as not run. Everything else is the first process's.

    Raises:
        ValueError: The processes measured different things.
    """
    tables = [{key(row): row for row in record["rows"]} for record in records]
    if any(list(table) != list(tables[0]) for table in tables):
        raise ValueError(f"{records[0]['benchmark']}: its processes measured different things")
    return records[0] | {"rows": [_pool_rows([table[name] for table in tables]) for name in tables[0]]}


def _pool_rows(same: list[Row]) -> Row:
    absent = [row for row in same if row["value"] is None]
    if absent:
        return absent[0]
    each = [row["rounds"] for row in same]
    joined: Row = {"value": [value for rounds in each for value in rounds["value"]]}
    limits = [rounds["times_limit"] for rounds in each]
    joined["times_limit"] = None if None in limits else [value for values in limits for value in values]
    joined["seconds"] = {
        way: [value for rounds in each for value in rounds["seconds"][way]] for way in each[0]["seconds"]
    }
    middle = float(np.median(joined["value"]))
    typical = min(same, key=lambda row: abs(row["value"]["median"] - middle))
    row = _with_spreads(typical | {"rounds": joined})
    if "curve" in row:
        costs = np.median([other["curve"]["costs"] for other in same], axis=0).tolist()
        row["curve"] = row["curve"] | {"costs": costs}
    return row


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
    return row | {"value": None, "rounds": None}


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


def write(name: str, rows: list[Row], quick: bool, path: Path, **details: Any) -> None:
    """Write one process's results with machine, versions, allocator and commit."""
    set_here = {variable: os.environ[variable] for variable in ALLOCATOR if variable in os.environ}
    facts = machine_facts() | {"threads": torch.get_num_threads(), "allocator": set_here}
    record = {
        "benchmark": name,
        "quick": quick,
        "machine": facts,
        "commit": measured_commit(),
        "rows": rows,
        "details": details,
    }
    save(record, path)


def save(record: Record, path: Path) -> None:
    """Write a record whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which takes no half of an option's name."""

    def __init__(self, about: str | None, **kwargs: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=about, formatter_class=formatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit."""
        print(f"error: {message} (the options: {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def parser_of(name: str, about: str | None) -> Parser:
    """Return the parser of a benchmark: ``--quick`` for a smoke test, ``--out`` to keep the figures."""
    parser = Parser(about, prog=f"python -m benchmarks.{name}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, help="file for the figures of this one process")
    return parser


def finish(name: str, rows: list[Row], options: argparse.Namespace, **details: Any) -> None:
    """Print the rows, and write them where ``--out`` names a file: one process is too few for the table."""
    for row in rows:
        print(line(row), flush=True)
    if options.out:
        write(name, rows, options.quick, options.out, **details)
        print(f"written to {options.out}")


def command(name: str, measure: Callable[[bool], list[Row]], about: str | None) -> None:
    """Be the command line of a benchmark; a user's mistake is one line."""
    options = parser_of(name, about).parse_args()
    try:
        rows = measure(options.quick)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    finish(name, rows, options)
