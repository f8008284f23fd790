"""Compare stages between an older commit and the working tree, measured in turns in fresh processes.

A figure has changed when every round of one side lies beyond every round of the other (by chance in 1 of 126
comparisons of 5 rounds) and the medians differ by more than 3 %. Compared are the table's figures and the seconds of
our own ways, because a ratio hides that both of its sides became slower. Exit status 1: something became worse, or a
stage could not be compared.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from benchmarks.__main__ import ROOT, measure, stage
from benchmarks._record import in_turns, number
from experiments.process import Parser

DEFAULT = ["loss_speed", "image_pipeline", "plane_evaluation"]
Title = tuple[str, str]  # what is measured, and which direction is better


def verdict(base: Sequence[float], now: Sequence[float], better: str) -> str:
    """Return "worse", "better", "same", or "one side" if the other has no figure."""
    if not base or not now:
        return "one side"
    old, new = ((1 if better == "higher" else -1) * np.array(side) for side in (base, now))
    if abs(np.median(new) - np.median(old)) <= 0.03 * abs(np.median(old)) or not np.median(old):
        return "same"
    return "worse" if new.max() < old.min() else "better" if new.min() > old.max() else "same"


def figures(name: str, tree: Path) -> dict[Title, float]:
    """Measure a stage in a checkout; return the medians of its figures and of our own seconds."""
    found = {}
    for row in (row for row in measure(name, tree=tree) if row.values):
        found[f"{row.stage}, {row.case}: {row.measure}", row.better] = row.median
        for way in row.seconds.keys() - {"authors"}:
            found[f"{row.stage}, {row.case}: seconds of {way}", "lower"] = float(np.median(row.seconds[way]))
    return found


def check_out(base: str, folder: Path) -> None:
    """Put a commit's files, with today's benchmarks, into a folder; exit with one line if there is no such commit."""
    command = ["git", "-C", str(ROOT), "archive", base, "--", ".", ":!benchmarks"]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"error: BASE={base}: {archive.stderr.decode().strip().splitlines()[0]}")
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks")


def main() -> None:
    parser = Parser(prog="python -m benchmarks._compare", description=__doc__)
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("names", nargs="*", metavar="NAME", type=stage, help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--rounds", type=int, default=5, help="at least 3; default 5")
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error(f"--rounds={options.rounds} is too few to tell a change from noise; take 3 or more")
    worse = 0
    with tempfile.TemporaryDirectory() as base:
        check_out(options.base, Path(base))
        for name in options.names or DEFAULT:
            trees = {"base": Path(base), "now": ROOT}
            ways = {side: partial(figures, name, tree) for side, tree in trees.items()}
            try:
                rounds = in_turns(ways, options.rounds)
            except subprocess.CalledProcessError:
                sys.exit(f"error: {name}: not compared with {options.base}")
            titles = dict.fromkeys(chain(*rounds["base"], *rounds["now"]))
            if not titles:
                sys.exit(f"error: {name}: nothing to compare on this machine")
            for title in titles:
                sides = [[one[title] for one in rounds[side] if title in one] for side in trees]
                told = verdict(*sides, better=title[1])
                ends = (f"{number(min(side))}-{number(max(side))}" if side else "none" for side in sides)
                print(f"{told:8s} {' -> '.join(ends)} {title[0]}", flush=True)
                worse += told == "worse"
    if worse:
        sys.exit(f"error: {worse} figures became worse than {options.base}")


if __name__ == "__main__":
    main()
