"""Run the experiments of the paper's tables, each with several seeds.

usage: sonodistill reproduce main|ablation|controls DATA [--seeds=1,2,3] [options of train]

  --seeds=1,2,3    one run per experiment and seed
  all other options go to every run

Finished runs are skipped, interrupted ones resume: repeat the command to continue.
"""

from __future__ import annotations

from experiments.paper import SUITES
from experiments.process import Parser
from experiments.suites.suite_runs import parse_seeds, reproduce


def main(argv: list[str]) -> int:
    """Run a suite and return the exit status of `reproduce`; its errors are raised, too."""
    parser = Parser(prog="sonodistill reproduce")
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("data")
    parser.add_argument("--seeds", default="1,2,3")
    options, rest = parser.parse_known_args(argv)
    return reproduce(options.suite, options.data, parse_seeds(options.seeds), rest)
