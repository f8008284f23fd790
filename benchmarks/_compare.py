"""Compare benchmarks between an older commit and the working tree, measured in turns in fresh processes.

A figure has changed when every round of one side lies beyond every round of the other (by chance in 1 of 126
comparisons of 5 rounds) and the medians differ by more than 3 %. Compared are the table's figures and the seconds of
our own ways, because a ratio hides that both of its sides became slower. Without names it compares loss_speed,
image_pipeline and plane_evaluation. Exit status 1: something became worse, or a benchmark could not be compared.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.__main__ import NAMES, environment_of
from benchmarks._record import ROOT, Parser, number

DEFAULT = ["loss_speed", "image_pipeline", "plane_evaluation"]
Figures = dict[
    tuple[str, ...], dict[str, list[float]]
]  # stage, case, measure and "higher" or "lower" -> side -> rounds


def verdict(base: list[float], now: list[float], better: str) -> str:
    """Return "worse", "better", "same", or "one side" if the other has no figure."""
    if not base or not now:
        return "one side"
    old, new = ((1 if better == "higher" else -1) * np.array(side) for side in (base, now))
    if abs(np.median(new) - np.median(old)) <= 0.03 * abs(np.median(old)) or not np.median(old):
        return "same"
    return "worse" if new.max() < old.min() else "better" if new.min() > old.max() else "same"


def check_out(base: str, folder: Path) -> None:
    """Put a commit's files, with today's benchmarks, into a folder; exit with one line if there is no such commit."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", base], capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"error: BASE={base}: {archive.stderr.decode().strip().splitlines()[0]}")
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    shutil.rmtree(folder / "benchmarks", ignore_errors=True)
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks")


def run_once(name: str, side: str, tree: Path, quick: bool, figures: Figures) -> None:
    """Run one benchmark in a tree and add its medians to `figures`; print why it cannot run there."""
    environment = {**environment_of(name), "PYTHONPATH": str(tree)}
    if os.environ.get("HC18_ROOT"):  # may be relative to the current folder
        environment["HC18_ROOT"] = str(Path(os.environ["HC18_ROOT"]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(out), *["--quick"] * quick]
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(
                f"{name}: cannot run in {side}: {(done.stderr.strip().splitlines() or [''])[-1]}", flush=True
            )
            return
        rows = [row for row in json.loads(out.read_text())["rows"] if row["value"]]
    for row in rows:
        title = row["stage"], row["case"]
        figures[*title, row["measure"], row["better"]][side].append(row["value"]["median"])
        for way in row["seconds"].keys() - {"authors"}:
            figures[*title, f"seconds of {way}", "lower"][side].append(row["seconds"][way]["median"])


def main() -> None:
    parser = Parser(__doc__, prog="python -m benchmarks._compare")
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks ({' '.join(DEFAULT)})")
    parser.add_argument("--rounds", type=int, default=5, help="at least 3; default 5")
    parser.add_argument("--quick", action="store_true", help="smoke test at tiny sizes")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"no such benchmark {unknown[0]}; choose from: {', '.join(NAMES)}")
    if options.rounds < 3:
        parser.error(f"--rounds={options.rounds} is too few to tell a change from noise; take 3 or more")
    worse, lost = 0, []
    with tempfile.TemporaryDirectory() as folder:
        trees = {"base": Path(folder) / "base", "now": ROOT}
        check_out(options.base, trees["base"])
        for name in options.names or DEFAULT:
            figures: Figures = defaultdict(lambda: {"base": [], "now": []})
            for turn in range(options.rounds):
                for side in list(trees) if turn % 2 == 0 else list(reversed(trees)):
                    run_once(name, side, trees[side], options.quick, figures)
            found = {title: verdict(*sides.values(), title[-1]) for title, sides in figures.items()}
            for title, sides in figures.items():
                ends = (f"{number(min(s))}-{number(max(s))}" if s else "none" for s in sides.values())
                print(f"{found[title]:8s} {title[0]}, {title[1]}: {' -> '.join(ends)} {title[2]}", flush=True)
            worse += sum(told == "worse" for told in found.values())
            lost += [name] if set(found.values()) <= {"one side"} else []
    failures = [f"{worse} figures became worse than {options.base}"] * bool(worse)
    failures += [f"not compared with {options.base}: {', '.join(lost)}"] * bool(lost)
    if failures:
        sys.exit(f"error: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
