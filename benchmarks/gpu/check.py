"""Check a card: tests, full-size step, loss and a real training, each in a process of its own with a time limit.

``--quick`` runs the same code at small sizes on the CPU. Results are in FOLDER: NAME.json and NAME.log of each stage,
and gpu.json of all; the exit status is that of the tests.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks._record import Row
from benchmarks._table import HEAD
from benchmarks.gpu.stage import GOALS, Stage
from experiments.process import STOPPED, Parser, exit_status, terminable
from experiments.runs.results import git_commit
from export.latency.machine import machine_facts
from models.files import write_json

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/gpu"
LIMITS = {"tests": 170.0, "step": 135.0, "loss": 60.0, "training": 115.0}
"""Seconds of each stage, eight minutes in all."""


def stages(text: str) -> list[str]:
    """Return the stages of a list; argparse reports any other."""
    names = text.split(",")
    if unknown := set(names) - set(LIMITS):
        raise argparse.ArgumentTypeError(f"no such stage {min(unknown)}; of {','.join(LIMITS)}")
    return names


def limit(text: str) -> tuple[str, float]:
    """Parse ``step=240``."""
    name, _, seconds = text.partition("=")
    if name not in LIMITS or not seconds.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected STAGE=SECONDS, such as step=240")
    return name, float(seconds)


def run_stage(name: str, options: argparse.Namespace, seconds: float) -> int | None:
    """Run one stage with everything that it starts; return its exit status, None if the limit ended it."""
    command = [sys.executable, "-m", "benchmarks", "gpu", f"--out={options.out}", f"--one={name}"]
    command += [*["--quick"] * options.quick, *["--compile"] * options.compile]
    environment = dict(os.environ)
    if options.quick:
        environment.setdefault("OMP_NUM_THREADS", "1")  # products this small are slower on several threads
    if name == "tests":
        command = [sys.executable, "-m", "pytest", TESTS, "-m", "gpu", "-v", "--color=no", "--durations=10"]
        command += ["-p", "no:cacheprovider"]
        environment |= {"GPU_CHECK_DEVICE": "cpu"} if options.quick else {}
    with (
        (options.out / f"{name}.log").open("w") as log,
        # The limit leaves a stage no time to clean up, and its killed processes may still be writing.
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
    ):
        # Outside of it, so that a stage that is run again does not compile again.
        environment.setdefault(
            "TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), "gpu-check-inductor"))
        )
        environment["TMPDIR"] = scratch
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def count_tests(log: Path, stage: Stage) -> None:
    """Add the row of the tests from pytest's lines, which a limit leaves; a test that it kept from ending counts."""
    text = log.read_text(errors="replace")
    # A test whose clean-up fails has a second line, with ERROR.
    each = dict(re.findall(r"^(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED)\b.*%\]$", text, re.MULTILINE))
    counts = Counter(each.values())
    found = re.search(r"collected (\d+) item(?:.* (\d+) selected)?", text)
    total = int(found[2] or found[1]) if found else 0
    skipped, failed = counts["SKIPPED"], counts["FAILED"] + counts["ERROR"]
    if not each or total == skipped:
        raise ValueError(f"none of {total} tests ran; see {log}")
    note = f"{total} tests, {failed} failed, {skipped} skipped, {total - len(each)} not ended"
    stage.goal("tests", [counts["PASSED"] / (total - skipped)], note=note)


def merge(out: Path, quick: bool) -> list[Row]:
    """Write gpu.json, of all stages that the folder has, and return its rows."""
    parts = [json.loads(p.read_text()) for name in LIMITS if (p := out / f"{name}.json").is_file()]
    facts = {name: fact for part in parts for name, fact in part["facts"].items()}
    rows = [Row(**row) for part in parts for row in part["rows"]]
    have = {(row.stage, row.case, row.measure) for row in rows}
    lost = [row for row in GOALS.values() if (row.stage, row.case, row.measure) not in have]
    rows += [replace(row, reason="not measured in this run") for row in lost]
    machine, about = machine_facts() | {"allocator": {}}, facts.get("card", {"versions": {}})
    machine |= {"device": about.get("name", machine["device"])}
    machine["versions"] |= about["versions"]
    record = {"benchmark": "gpu", "quick": quick, "machine": machine, "commit": git_commit()}
    write_json(out / "gpu.json", record | {"facts": facts, "rows": [asdict(row) for row in rows]})
    return rows


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options; a machine without a card is reported."""
    parser = Parser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes on the CPU: does everything run?")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", default=Path("outputs/gpu"), help="default outputs/gpu"
    )
    parser.add_argument("--stages", type=stages, default=[*LIMITS], help=f"default {','.join(LIMITS)}")
    parser.add_argument("--compile", action="store_true", help="compile the models of the training, too")
    text = f"STAGE=SECONDS; default {' '.join(f'{k}={v:.0f}' for k, v in LIMITS.items())}"
    parser.add_argument("--limit", type=limit, action="append", default=[], help=text)
    parser.add_argument("--one", choices=list(LIMITS)[1:], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if not (options.quick or torch.cuda.is_available()):
        parser.error("this machine has no CUDA device that torch can use; --quick tries the code on the CPU")
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def run_stages(options: argparse.Namespace, limits: dict[str, float]) -> int:
    """Run the stages one after the other, print the table, and return the exit status."""
    status = 0
    for name in options.stages:
        (options.out / f"{name}.json").unlink(missing_ok=True)
        print(f"== {name}, at most {limits[name]:.0f} s", flush=True)
        code = run_stage(name, options, limits[name])
        if name == "tests":
            status = 0 if code == 0 else 1
            stage = Stage(name, options.out, options.quick)
            stage.measured("pytest", partial(count_tests, options.out / "tests.log", stage))
        if code != 0:
            ended = f"ended by its limit of {limits[name]:.0f} s" if code is None else f"exit status {code}"
            print(f"{name}: {ended}; the end of {options.out / name}.log:")
            log = (options.out / f"{name}.log").read_text(errors="replace").splitlines()
            print("\n".join(line[:300] for line in log[-15:]), flush=True)
        rows = merge(options.out, options.quick)  # after each stage: the whole check may be cut off
    print(*HEAD, *(row.line() for row in rows), sep="\n", flush=True)
    print(f"{options.out}/gpu.json")
    return status


def main(argv: list[str]) -> int:
    """Check a card; see the module."""
    options = parse(argv)
    if options.one:
        more = {"compiled": options.compile} if options.one == "training" else {}
        stage = Stage(options.one, options.out, options.quick)
        importlib.import_module(f"benchmarks.gpu.{options.one}").run(stage, **more)
        return 0
    try:
        with terminable():
            return run_stages(options, LIMITS | dict(options.limit))
    except STOPPED as stop:
        return exit_status(stop)
