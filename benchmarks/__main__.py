"""Measure all stages, or those named, against their baselines; each in fresh processes whose rounds are pooled.

Rounds of one process spread less than those of several, because each lays out its memory differently. Results go to
benchmarks/results/ and from there into docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks._record import Row, pool
from experiments.process import STOPPED, Parser, exit_status, status_for_make, terminable
from export.latency.worker import ALLOCATOR
from models.files import write_json

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
# These run with the allocator settings of the Makefile, baselines included; all others with glibc's default.
WHOLE_COMMANDS = {"plane_evaluation", "training_step"}
PROCESSES = 3
QUIET = {"KINETO_LOG_LEVEL": "99"}  # otherwise the memory profiler reports at each start that there is no GPU


def stage(name: str) -> str:
    """Return the name of a stage; argparse reports any other."""
    if name not in NAMES:
        raise argparse.ArgumentTypeError(f"no such benchmark {name}; one of {', '.join(NAMES)}")
    return name


def environment_of(name: str) -> dict[str, str]:
    """Return the environment of a stage, the same with and without make; the user's own values win."""
    given = {**QUIET, **ALLOCATOR, **os.environ}
    if given.get("HC18_ROOT"):  # may be relative to the current folder
        given["HC18_ROOT"] = str(Path(given["HC18_ROOT"]).resolve())
    dropped = () if name in WHOLE_COMMANDS else ALLOCATOR
    return {variable: value for variable, value in given.items() if variable not in dropped}


def measure(name: str, quick: bool = False, tree: Path = ROOT) -> list[Row]:
    """Measure a stage in a fresh process of the checkout `tree`.

    Raises:
        CalledProcessError: It failed, and has printed why.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks", name, f"--out={out}", *["--quick"] * quick]
        subprocess.run(command, cwd=tree, env=environment_of(name), stdout=subprocess.DEVNULL, check=True)
        return [Row(**row) for row in json.loads(out.read_text(encoding="utf-8"))]


def measure_and_keep(name: str, commit: str | None) -> list[Row]:
    """Measure a stage and store its results."""
    from benchmarks import _table
    from export.latency.machine import machine_facts

    environment = environment_of(name)
    allocator = {variable: environment[variable] for variable in ALLOCATOR if variable in environment}
    machine = machine_facts() | {"allocator": allocator}
    rows = pool([measure(name) for _ in range(PROCESSES)])
    facts = {"benchmark": name, "machine": machine, "commit": commit}
    write_json(_table.RESULTS / f"{name}.json", facts | {"rows": [asdict(row) for row in rows]})
    return rows


@status_for_make()
def main() -> None:
    """Measure the chosen stages one after the other; ``gpu`` is a command of its own."""
    if sys.argv[1:2] == ["gpu"]:
        sys.exit(importlib.import_module("benchmarks.gpu.check").main(sys.argv[2:]))
    parser = Parser(prog="sonodistill bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", type=stage, help=" ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="smoke test at tiny sizes; nothing is kept")
    parser.add_argument("--table", action="store_true", help="write docs/performance.md from stored results")
    parser.add_argument("--out", type=Path, help="measure one NAME in this process and write its rows here")
    options = parser.parse_args()
    if options.out:
        if len(options.names) != 1:
            parser.error("--out takes the rows of one NAME: python -m benchmarks NAME --out=FILE")
        try:
            rows = importlib.import_module(f"benchmarks.{options.names[0]}").measure(options.quick)
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")
        write_json(options.out, [asdict(row) for row in rows])
        return
    from benchmarks import _table  # seconds of imports, which the processes of the stages save
    from experiments.runs.results import git_commit

    commit, failed = git_commit(), []
    for name in () if options.table else options.names or NAMES:
        print(f"== {name}", flush=True)
        try:
            rows = measure(name, quick=True) if options.quick else measure_and_keep(name, commit)
        except subprocess.CalledProcessError:
            failed.append(name)
        else:
            print(*(row.line() for row in rows), sep="\n", flush=True)
    if not options.quick:
        _table.write_page(_table.PAGE, _table.RESULTS)
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        with terminable():
            main()
    except STOPPED as stop:
        sys.exit(exit_status(stop))
