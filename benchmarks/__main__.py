"""Run all benchmarks, or those named, each in three fresh processes whose rounds are pooled.

Rounds of one process spread less than those of several, because each lays out its memory differently. Results go to
benchmarks/results/ and from there into docs/performance.md.

Benchmarks of whole commands (plane_evaluation, training_step, cost_curves) run with the allocator settings of the
Makefile, baselines included; all others run with glibc's default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._record import RESULTS, Parser, Record, pool, table_line
from experiments.process import status_for_make
from export.latency.worker import ALLOCATOR
from models.files import write_json

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
WHOLE_COMMANDS = {"plane_evaluation", "training_step", "cost_curves"}
PROCESSES = {name: 1 if name == "inference" else 3 for name in NAMES}  # inference starts its own
QUIET = {"KINETO_LOG_LEVEL": "99"}  # otherwise the memory profiler reports at each start that there is no GPU


def environment_of(name: str) -> dict[str, str]:
    """Return the environment of a benchmark, the same with and without make; the user's own values win."""
    if name in WHOLE_COMMANDS:
        return {**QUIET, **ALLOCATOR, **os.environ}
    return QUIET | {variable: value for variable, value in os.environ.items() if variable not in ALLOCATOR}


def run(name: str, quick: bool) -> Record | None:
    """Run one benchmark in its processes and pool them; None if one of them failed."""
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


def keep(record: Record) -> None:
    """Write results, unless nothing could be run here and the stored ones hold figures of another machine."""
    path = RESULTS / f"{record['benchmark']}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    if any(row["value"] for row in before) and all(row["value"] is None for row in record["rows"]):
        print(f"{path}: kept, with figures of a machine that could run it")
    else:
        write_json(path, record)


@status_for_make()
def main() -> None:
    """Run the chosen benchmarks one after the other."""
    parser = Parser(__doc__, prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks (all: {' '.join(NAMES)})")
    parser.add_argument("--quick", action="store_true", help="smoke test at tiny sizes; nothing is kept")
    parser.add_argument(
        "--table", action="store_true", help="only write docs/performance.md from stored results"
    )
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no such benchmark {unknown[0]}; choose from: {', '.join(NAMES)}")
    failed = []
    for name in () if options.table else options.names or NAMES:
        print(f"== {name}", flush=True)
        record = run(name, options.quick)
        if record is None:
            failed.append(name)
            continue
        print(*map(table_line, record["rows"]), sep="\n", flush=True)
        if not options.quick:
            keep(record)
    if not options.quick:
        table = [sys.executable, "-m", "benchmarks._table"]
        if subprocess.run(table, check=False).returncode:
            failed.append("the table")
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
