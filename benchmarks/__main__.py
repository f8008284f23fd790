"""Run every benchmark, or those named, each in fresh processes whose rounds are pooled.

What one process measures is narrower than what the next one finds, because memory lies elsewhere; so a spread holds
the rounds of several. Results go to benchmarks/results/ and from there into docs/performance.md.

`make` tells glibc to keep freed memory (see the Makefile). Benchmarks of whole commands (plane_evaluation,
training_step, cost_curves) run that way, baselines included, whether make starts them or not; all others have the
default allocator on every side.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._record import RESULTS, Parser, Record, Row, key, line, number, pool, save
from experiments.child_process import status_for_make
from export.latency.machine import ALLOCATOR

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
WHOLE_COMMANDS = {"plane_evaluation", "training_step", "cost_curves"}
PROCESSES = {name: 1 if name == "inference" else 3 for name in NAMES}
"""Fresh processes of a benchmark; inference starts its own for every backend, and that several times."""
QUIET = {"KINETO_LOG_LEVEL": "99"}
"""The profiler that counts memory would say at each start and end that it finds no GPU."""
LEAST_SPREAD = 0.03
"""Least distance of a spread's ends from its median, as a share of it.

A few rounds on a quiet machine lie closer together than what the next hour finds, and some figures have no spread.
"""


def environment_of(name: str) -> dict[str, str]:
    """Return the environment of a benchmark: make's allocator for whole commands, the default one for all others.

    The same with and without make, so that results can be compared; a user's own values win, as they do in make.
    """
    if name in WHOLE_COMMANDS:
        return {**QUIET, **ALLOCATOR, **os.environ}
    return QUIET | {variable: value for variable, value in os.environ.items() if variable not in ALLOCATOR}


def run(name: str, quick: bool) -> Record | None:
    """Run one benchmark in its processes and pool them; None where one of them failed."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(1 if quick else PROCESSES[name]):
            out = Path(folder) / f"{turn}.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(out)]
            command += ["--quick"] if quick else []
            done = subprocess.run(command, env=environment_of(name), stdout=subprocess.DEVNULL, check=False)
            if done.returncode:
                return None
            records.append(json.loads(out.read_text(encoding="utf-8")))
    return pool(records)


def stored(name: str) -> Record | None:
    """Return the kept results of a benchmark, None without any."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def keep(record: Record) -> None:
    """Write results, but never those of a machine that could run nothing over figures of one that could."""
    path, before = RESULTS / f"{record['benchmark']}.json", stored(record["benchmark"])
    could = before is not None and any(row["value"] for row in before["rows"])
    if could and all(row["value"] is None for row in record["rows"]):
        print(f"{path}: kept, with figures of a machine that could run it")
    else:
        save(record, path)


def widened(row: Row) -> tuple[float, float]:
    """Return a figure's spread, its ends at least `LEAST_SPREAD` of the median away from it."""
    value, least = row["value"], LEAST_SPREAD * abs(row["value"]["median"])
    if "curve" in row:  # an exponent: what one end of the curve would change it by, costing so much more
        sizes = row["curve"]["sizes"]
        least = max(least, math.log1p(LEAST_SPREAD) / math.log(max(sizes) / min(sizes)))
    if row.get("one_minus"):
        least = max(least, LEAST_SPREAD)
    return min(value["p10"], value["median"] - least), max(value["p90"], value["median"] + least)


def disagreements(before: Record, now: Record) -> list[str]:
    """Name the figures of a rerun whose spread does not reach the stored one, and those that only one side has.

    Spreads are compared and not medians alone: with the few rounds of a costly stage the median of a rerun lies
    outside the stored spread every other time, though nothing has changed.
    """
    old, new = ({key(row): row for row in record["rows"]} for record in (before, now))
    found = [f"{', '.join(name)}: only in the stored results" for name in old if name not in new]
    for name, row in new.items():
        if name not in old:
            found.append(f"{', '.join(name)}: not in the stored results")
        elif row["value"] is None or old[name]["value"] is None:
            if row["value"] is not old[name]["value"]:
                found.append(f"{', '.join(name)}: run on one side only")
        else:
            (low, high), (least, most) = widened(old[name]), widened(row)
            if most < low or high < least:
                now_, stored_ = (f"{number(a)}-{number(b)}" for a, b in ((least, most), (low, high)))
                found.append(f"{', '.join(name)}: {now_}, apart from the stored {stored_}")
    return found


def agree(record: Record) -> bool:
    """Print where a rerun's spreads are apart from the stored ones; return whether they nowhere are."""
    before = stored(record["benchmark"])
    found = ["no stored results"] if before is None else disagreements(before, record)
    print(*(f"DISAGREES {record['benchmark']}: {what}" for what in found), sep="\n" if found else "")
    return not found


@status_for_make()
def main() -> None:
    """Run the chosen benchmarks one after the other."""
    parser = Parser(__doc__, prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks (all: {' '.join(NAMES)})")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it runs; nothing is kept"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--table", action="store_true", help="write docs/performance.md from the stored results alone"
    )
    what.add_argument(
        "--agree",
        action="store_true",
        help="measure anew, keep nothing, and name every row whose spread is apart from the stored one",
    )
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no such benchmark {unknown[0]}; choose from: {', '.join(NAMES)}")
    if options.quick and options.agree:
        parser.error("--agree needs full sizes: leave --quick out")
    failed, apart = [], []
    for name in () if options.table else options.names or NAMES:
        print(f"== {name}", flush=True)
        record = run(name, options.quick)
        if record is None:
            failed.append(name)
            continue
        print(*map(line, record["rows"]), sep="\n", flush=True)
        if options.agree:
            apart += [] if agree(record) else [name]
        elif not options.quick:
            keep(record)
    if not options.quick and not options.agree:
        table = [sys.executable, "-m", "benchmarks._table"]
        if subprocess.run(table, check=False).returncode:
            failed.append("the table")
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}")
    if apart:
        sys.exit(f"error: apart from the stored spreads: {', '.join(apart)}")


if __name__ == "__main__":
    main()
