"""Run every benchmark, or those named, each in fresh processes whose rounds are pooled.

What one process measures is narrower than what the next one finds, because memory lies elsewhere; so a spread holds
the rounds of several. Results go to benchmarks/results/ and from there into docs/performance.md.

`make` tells glibc to keep freed memory (see the Makefile). Benchmarks of whole commands (plane_evaluation,
training_step, cost_curves) run that way, baselines included; all others have the default allocator on every side.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._record import ALLOCATOR, RESULTS, Parser, Record, key, line, number, pool, save

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
WHOLE_COMMANDS = {"plane_evaluation", "training_step", "cost_curves"}
PROCESSES = {name: 1 if name == "inference" else 3 for name in NAMES}
"""Fresh processes of a benchmark; inference starts its own for every backend, and that several times."""
SLACK = 1e-3
"""Relative difference that is none: some figures have no spread at all."""


def environment_of(name: str) -> dict[str, str]:
    """Return the environment of a benchmark: the allocator is the default one but for whole commands."""
    dropped = () if name in WHOLE_COMMANDS else ALLOCATOR
    return {variable: value for variable, value in os.environ.items() if variable not in dropped}


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


def disagreements(before: Record, now: Record) -> list[str]:
    """Name the figures of a rerun whose median lies outside the stored spread, and those that only one side has."""
    old, new = ({key(row): row["value"] for row in record["rows"]} for record in (before, now))
    found = [f"{', '.join(name)}: only in the stored results" for name in old if name not in new]
    for name, value in new.items():
        if name not in old:
            found.append(f"{', '.join(name)}: not in the stored results")
        elif value is None or old[name] is None:
            if value is not old[name]:
                found.append(f"{', '.join(name)}: run on one side only")
        else:
            low, high, median = old[name]["p10"], old[name]["p90"], value["median"]
            inside = low <= median <= high
            if not inside and not any(math.isclose(median, edge, rel_tol=SLACK) for edge in (low, high)):
                found.append(f"{', '.join(name)}: {number(median)}, not within {number(low)}-{number(high)}")
    return found


def agree(record: Record) -> bool:
    """Print where a rerun leaves the stored spreads; return whether it nowhere does."""
    before = stored(record["benchmark"])
    found = ["no stored results"] if before is None else disagreements(before, record)
    print(*(f"DISAGREES {record['benchmark']}: {what}" for what in found), sep="\n" if found else "")
    return not found


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
        help="measure anew, keep nothing, and name every row whose median lies outside the stored spread",
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
        sys.exit(f"error: outside the stored spread: {', '.join(apart)}")


if __name__ == "__main__":
    main()
