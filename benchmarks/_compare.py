"""Tell a regression from noise: today's benchmarks on an older commit and on the working tree, in turns.

Without names it compares loss_speed, image_pipeline and plane_evaluation, the stages that need neither an export nor
a training; any other has to be named. Each round measures both sides in fresh processes, in changing order. Compared
are the table's figures and the seconds of our own ways, because a ratio may hide that both of its sides became
slower. A figure counts as changed when EVERY round of one side lies beyond every round of the other (with 5 rounds
that happens by chance in 1 of 126 comparisons) and the medians differ by more than 3 %. Figures that only one side
has are named. The exit status is 1 when something became worse, and when a benchmark could not be compared.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.__main__ import NAMES, environment_of
from benchmarks._record import Key, Parser, Row, key, number

ROOT = Path(__file__).resolve().parent.parent
LEAST_CHANGE = 0.03
LEAST_ROUNDS = 3  # of two against two, one in three differs by chance
DEFAULT = ["loss_speed", "image_pipeline", "plane_evaluation"]


def verdict(base: list[float], now: list[float], better: str) -> str:
    """Return "worse", "better" or "same" for one figure's values over the rounds of both sides."""
    sign = 1.0 if better == "higher" else -1.0
    old, new = sign * np.array(base), sign * np.array(now)
    middle = abs(float(np.median(old)))
    if middle == 0 or abs(float(np.median(new) - np.median(old))) <= LEAST_CHANGE * middle:
        return "same"
    if new.max() < old.min():
        return "worse"
    return "better" if new.min() > old.max() else "same"


def check_out(base: str, folder: Path) -> None:
    """Put a commit's files, with the benchmarks of today, into a folder.

    Raises:
        ValueError: There is no such commit.
    """
    folder.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", base], capture_output=True, check=False)
    if archive.returncode:
        raise ValueError(f"BASE={base}: {archive.stderr.decode().strip().splitlines()[0]}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    shutil.rmtree(folder / "benchmarks", ignore_errors=True)
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks")


def run_once(name: str, tree: Path, out: Path, quick: bool) -> list[Row] | None:
    """Run one benchmark in a tree and return its rows; None where it cannot run there."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(out), *(["--quick"] if quick else [])]
    environment = {**environment_of(name), "PYTHONPATH": str(tree)}
    if os.environ.get("HC18_ROOT"):  # the trees are elsewhere than the folder that it may be relative to
        environment["HC18_ROOT"] = str(Path(os.environ["HC18_ROOT"]).resolve())
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it wrote no results"]
        print(f"{name}: cannot run in {tree.name}: {lines[-1]}", flush=True)
        return None
    rows: list[Row] = json.loads(out.read_text())["rows"]
    out.unlink()
    return rows


def figures(rows: list[Row]) -> dict[Key, tuple[float, str]]:
    """Return each figure's median and which way is better: the rows' own, and the seconds of our ways."""
    found = {}
    for row in rows:
        if row["value"] is None:
            continue
        found[key(row)] = row["value"]["median"], row["better"]
        for way, seconds in row["seconds"].items():
            if way != "authors":
                found[row["stage"], row["case"], f"seconds of {way}"] = seconds["median"], "lower"
    return found


def compare(name: str, trees: dict[str, Path], rounds: int, quick: bool) -> list[dict[str, Any]]:
    """Measure one benchmark in turns on both trees.

    Returns:
        Each figure's values on both sides with its verdict; "only one side" where the other lacks it.
    """
    values: dict[str, dict[Key, list[float]]] = {side: {} for side in trees}
    better: dict[Key, str] = {}
    for number_ in range(rounds):
        for side in list(trees) if number_ % 2 == 0 else list(reversed(trees)):
            rows = run_once(name, trees[side], trees["base"].parent / "out.json", quick)
            if rows is None:
                return []
            for figure, (median, way) in figures(rows).items():
                values[side].setdefault(figure, []).append(median)
                better[figure] = way
    found = []
    for figure in better:
        base, now = values["base"].get(figure, []), values["now"].get(figure, [])
        told = verdict(base, now, better[figure]) if base and now else "only one side"
        found.append({"key": figure, "base": base, "now": now, "verdict": told})
    return found


def show(found: dict[str, Any]) -> str:
    """Return one figure as a line of text."""
    stage, case, measure = found["key"]
    if found["verdict"] == "only one side":
        side = "base" if found["base"] else "working tree"
        return f"only in the {side}: {stage}, {case}: {measure}"
    old, new = (f"{number(min(v))}-{number(max(v))}" for v in (found["base"], found["now"]))
    return f"{found['verdict']:6s} {stage}, {case}: {old} -> {new} {measure}"


def main() -> None:
    parser = Parser(__doc__, prog="python -m benchmarks._compare")
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks ({' '.join(DEFAULT)})")
    parser.add_argument("--rounds", type=int, default=5, help=f"at least {LEAST_ROUNDS}; 5 if left out")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no such benchmark {unknown[0]}; choose from: {', '.join(NAMES)}")
    if options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds={options.rounds} tells nothing from noise; take {LEAST_ROUNDS} or more")
    worse, nothing = 0, []
    with tempfile.TemporaryDirectory() as folder:
        trees = {"base": Path(folder) / "base", "now": ROOT}
        try:
            check_out(options.base, trees["base"])
        except ValueError as error:
            sys.exit(f"error: {error}")
        for name in options.names or DEFAULT:
            found = compare(name, trees, options.rounds, options.quick)
            if all(figure["verdict"] == "only one side" for figure in found):
                nothing.append(name)
            print(*map(show, found), sep="\n", flush=True)
            worse += sum(figure["verdict"] == "worse" for figure in found)
    failures = [f"{worse} figures became worse than {options.base}"] if worse else []
    failures += [f"not compared with {options.base}: {', '.join(nothing)}"] if nothing else []
    if failures:
        sys.exit(f"error: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
