"""Run the experiments of the paper's tables, each with several seeds, or evaluate the published models.

usage: sonodistill reproduce main|ablation|controls|capacity DATA [--seeds=1,2,3] [options of train]
       sonodistill reproduce published --teacher=FILE --student=FILE --protocol=FILE [--ckpt=FILE] [options of evaluate]

  --seeds=1,2,3    one run per experiment and seed
  all other options go to every run

Finished runs are skipped, interrupted ones resume: repeat the command to continue.

``published`` scores the published teacher, the released student and, with --ckpt, one trained here on all images of
HC18_ROOT and PLANES_ROOT, and prints paper, released code and ours side by side.
"""

from __future__ import annotations

from experiments.paper import SUITES
from experiments.process import Parser
from experiments.suites.published import SOURCES, compare
from experiments.suites.suite_runs import parse_seeds, reproduce


def main(argv: list[str]) -> int:
    """Run a suite, or `published`, and return the exit status; its errors are raised, too."""
    if argv[:1] == ["published"]:
        parser = Parser(prog="sonodistill reproduce published")
        for option in SOURCES:
            parser.add_argument(option)
        files, rest = parser.parse_known_args(argv[1:])
        return compare({option: getattr(files, option.removeprefix("--")) for option in SOURCES}, rest)
    parser = Parser(prog="sonodistill reproduce")
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("data")
    parser.add_argument("--seeds", default="1,2,3")
    options, rest = parser.parse_known_args(argv)
    return reproduce(options.suite, options.data, parse_seeds(options.seeds), rest)
