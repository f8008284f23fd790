"""Shared by all benchmarks: timing in turns, rows with their spread, results files and the command line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import cv2
import numpy as np
import torch

from experiments.runs.results import git_commit
from export.latency.machine import machine_facts
from export.latency.worker import ALLOCATOR
from models.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]
Record = dict[str, Any]
Key = tuple[str, str, str]
T = TypeVar("T")


def in_turns(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call functions in turns, every other turn in reverse order; return name -> results of all rounds."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways) if turn % 2 == 0 else list(reversed(ways)):
            found[name].append(ways[name]())
    return found


def interleave(
    ways: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu", warm: bool = True
) -> dict[str, np.ndarray]:
    """Time functions in turns, so that a busy machine slows all of them alike.

    Args:
        ways: Name -> function without arguments.
        rounds: Number of turns, see `in_turns`.
        device: Device to synchronise with, "cpu" or "cuda".
        warm: Call each function once before.

    Returns:
        Name -> seconds of each round. Take ratios within a round.
    """
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None

    def timed(run: Callable[[], Any]) -> float:
        wait()
        start = time.perf_counter()
        run()
        wait()
        return time.perf_counter() - start

    for run in ways.values() if warm else ():
        run()
    clocks = {name: partial(timed, run) for name, run in ways.items()}
    return {name: np.array(values) for name, values in in_turns(clocks, rounds).items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch and OpenCV to one thread each, as in a data loader's worker."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def spread(values: Any) -> dict[str, float]:
    """Return median, 10th and 90th percentile."""
    low, median, high = np.percentile(np.asarray(values, dtype=float), [10, 50, 90])
    return {"median": float(median), "p10": float(low), "p90": float(high)}


def make_row(
    stage: str, case: str, measure: str, values: Any, *, target: float | None = None, better: str = "higher",
    seconds: Mapping[str, Any] | None = None, limit: str = "", limit_values: Any = None, note: str = "",
    reason: str = "",
) -> Row:  # fmt: skip
    """Return a row of the table, with its rounds and their spread.

    Args:
        stage: What is measured.
        case: Size or setting.
        measure: Meaning of the number, such as "times faster than the authors' way".
        values: The number in each round.
        target: Required value of the median.
        better: "higher" or "lower".
        seconds: Way -> seconds of each round.
        limit: What bounds the speed.
        limit_values: Our time as a multiple of that bound, in each round.
        note: Remark for the reader.
        reason: Measured cause of a missed target; by default derived from the limit.
    """
    row = {
        "stage": stage,
        "case": case,
        "measure": measure,
        "target": target,
        "better": better,
        "limit": limit,
    }
    rounds = {
        "value": [*map(float, values)],
        "times_limit": None if limit_values is None else [*map(float, limit_values)],
        "seconds": {name: [*map(float, times)] for name, times in (seconds or {}).items()},
    }
    return _with_spreads(row | {"note": note, "reason": reason, "rounds": rounds})


def _with_spreads(row: Row) -> Row:
    rounds = row["rounds"]
    limit = rounds["times_limit"]
    return row | {
        "value": spread(rounds["value"]),
        "times_limit": None if limit is None else spread(limit),
        "seconds": {name: spread(times) for name, times in rounds["seconds"].items()},
    }


def not_run(
    stage: str, case: str, measure: str, why: str, target: float | None = None, better: str = "higher"
) -> Row:
    """Return the row of a figure that this machine cannot measure; `why` names what is missing."""
    why = " ".join(why.replace("|", "/").split())  # one cell of the table
    row = make_row(stage, case, measure, [0.0], target=target, better=better, reason=why)
    return row | {"value": None, "rounds": None}


def key(row: Row) -> Key:
    """Return what identifies a row."""
    return row["stage"], row["case"], row["measure"]


def pool(records: list[Record]) -> Record:
    """Join the rounds of several processes, so that spreads include the differences between processes.

    Notes and reasons are those of the process with the median nearest to the pooled one. A row that one process
    could not run counts as not run.

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
    limits = [rounds["times_limit"] for rounds in each]
    joined = {
        "value": [*chain(*(rounds["value"] for rounds in each))],
        "times_limit": None if None in limits else [*chain(*limits)],
        "seconds": {
            way: [*chain(*(rounds["seconds"][way] for rounds in each))] for way in each[0]["seconds"]
        },
    }
    middle = float(np.median(joined["value"]))
    row = _with_spreads(min(same, key=lambda row: abs(row["value"]["median"] - middle)) | {"rounds": joined})
    if "curve" in row:
        costs = np.median([other["curve"]["costs"] for other in same], axis=0).tolist()
        row["curve"] = row["curve"] | {"costs": costs}
    return row


def met(row: Row) -> bool | None:
    """Return whether the median reaches the target; None without a target or a measurement."""
    if row["target"] is None or row["value"] is None:
        return None
    median = row["value"]["median"]
    return bool(median >= row["target"] if row["better"] == "higher" else median <= row["target"])


def number(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def figure(row: Row) -> str:
    """Return median, spread and measure as text."""
    value = row["value"]
    ends = "" if value["p10"] == value["p90"] else f" ({number(value['p10'])}-{number(value['p90'])})"
    return f"{number(value['median'])}{ends} {row['measure']}"


def reason_of(row: Row) -> str:
    """Return the measured cause of a missed target, in brackets: the row's own, or what its limit would allow."""
    reason = row["reason"]
    if not reason and row["times_limit"] is not None:
        times = row["times_limit"]["median"]
        reason = f"it takes {number(times)} x {row['limit']}"
        if row["measure"].startswith("times faster"):
            reason += f", which alone would be {number(row['value']['median'] * times)} {row['measure']}"
    return f" ({reason})" if reason else ""


def table_line(row: Row) -> str:
    """Return a row as a line of the Markdown table."""
    absent, limit, goal = row["value"] is None, "", ""
    if row["target"] is not None:
        missed = "**not run**" if absent else f"**missed**{reason_of(row)}"
        sign = "at least" if row["better"] == "higher" else "at most"
        goal = f"{sign} {row['target']:g}: {'met' if met(row) else missed}"
    if row["times_limit"] is not None:
        limit = f"{number(row['times_limit']['median'])} x {row['limit']}"
    measured = f"not run: {row['reason']} ({row['measure']})" if absent else figure(row)
    return f"| {' | '.join((row['stage'], row['case'], measured, goal, limit, row['note']))} |"


def measured_commit() -> str | None:
    """Return the commit, with ``-dirty`` if files other than the results and their page have changed."""
    commit = git_commit()
    if commit is None or not commit.endswith("-dirty"):
        return commit
    others = [".", ":!benchmarks/results", ":!docs/performance*"]
    done = subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", *others], check=False)
    return commit if done.returncode else commit.removesuffix("-dirty")


def write(name: str, rows: list[Row], quick: bool, path: Path) -> None:
    """Write the results of one process with machine, versions, allocator and commit."""
    set_here = {variable: os.environ[variable] for variable in ALLOCATOR if variable in os.environ}
    machine = machine_facts() | {"threads": torch.get_num_threads(), "allocator": set_here}
    commit = measured_commit()
    write_json(path, {"benchmark": name, "quick": quick, "machine": machine, "commit": commit, "rows": rows})


class Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors and without abbreviated options."""

    def __init__(self, about: str | None, **kwargs: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=about, formatter_class=formatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit."""
        print(f"error: {message} (the options: {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def command(
    name: str, measure: Callable[..., list[Row]], about: str | None, options: Mapping[str, Any] | None = None
) -> None:
    """Command line of a benchmark: print its rows, and write them where ``--out`` names a file.

    Args:
        name: Name of the benchmark.
        measure: Called with `quick` and the values of `options`; a ValueError or OSError becomes one line.
        about: Text of ``--help``.
        options: Further options, with their arguments of `add_argument`.
    """
    parser = Parser(about, prog=f"python -m benchmarks.{name}")
    parser.add_argument("--quick", action="store_true", help="smoke test at tiny sizes")
    parser.add_argument("--out", type=Path, help="file for the results of this process")
    for option, settings in (options or {}).items():
        parser.add_argument(option, **settings)
    given = vars(parser.parse_args())
    out = given.pop("out")
    try:
        rows = measure(**given)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(*map(table_line, rows), sep="\n", flush=True)
    if out:
        write(name, rows, given["quick"], out)
