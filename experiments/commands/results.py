"""Train a suite over seeds, and show results: a suite's beside the paper's, or one HTML file about finished runs.

usage: sonodistill reproduce main|ablation|controls|repulsion|capacity DATA [--seeds=1,2,3] [--jobs=N]
                            [options of train]
       sonodistill reproduce published --teacher=FILE --student=FILE --protocol=FILE [--ckpt=FILE] [options of evaluate]
       sonodistill table DATA [options]
       sonodistill report RUN... [--out=FILE] [--trust]

reproduce: the experiments of the paper's tables, or ``published``: the published teacher, the released student and,
with --ckpt, one trained here, scored on all images of HC18_ROOT and PLANES_ROOT beside paper and released code
  --seeds=1,2,3       one run per experiment and seed; all other options go to every run
  --jobs=N            runs at a time, which share the cores; each prints into its folder
  Finished runs are skipped, interrupted ones resume: repeat the command to continue.

table: our results and the methods' differences as Markdown, CSV, LaTeX and plots
  --commit            write the rows into --results, not into --outputs, and tables into README.md and docs/results.md
  --outputs=FOLDER    folder of all runs
  --results=FOLDER    folder of the committed rows
  --documents=FOLDER  folder of README.md and docs/

report
  RUN                 folder of a finished run: outputs/EXP/RUN
  --out=FILE          file to write; default: report.html in the run's folder, or outputs/reports/
  --trust             build classes of other packages that a run's files name
"""

from __future__ import annotations

from pathlib import Path

from experiments.paper import SUITES
from experiments.process import Parser, positive, relative
from experiments.recipe_files import preset_file
from experiments.runs.run_folder import OUTPUTS
from experiments.suites.documents import ROOT, fill_documents
from experiments.suites.published import SOURCES, compare
from experiments.suites.result_rows import RESULTS, finished, read_rows, refresh
from experiments.suites.suite_runs import parse_seeds, run_suite
from experiments.suites.table import write_tables
from models.messages import count


def main(argv: list[str]) -> int:
    """Run one command line, whose first word is the command."""
    return {"reproduce": reproduce, "table": table, "report": report}[argv[0]](argv[1:])


def reproduce(argv: list[str]) -> int:
    """Run a suite, or score the published models."""
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
    parser.add_argument("--jobs", type=positive, default=1)
    options, rest = parser.parse_known_args(argv)
    return run_suite(options.suite, options.data, parse_seeds(options.seeds), rest, options.jobs)


def report(argv: list[str]) -> int:
    """Write the report of runs and print its path."""
    parser = Parser(prog="sonodistill report")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out")
    parser.add_argument("--trust", action="store_true")
    options = parser.parse_args(argv)
    from experiments.report.write import write_report  # behind the parser: a mistake is named at once
    from models.checkpoints.trust import apply_trust

    apply_trust(argv)
    print(f"report: {write_report(options.runs, options.out)}")
    return 0


def table(argv: list[str]) -> int:
    """Collect the rows of the finished runs, and print and write the tables."""
    parser = Parser(prog="sonodistill table")
    parser.add_argument("data")
    parser.add_argument("--outputs", type=Path, default=OUTPUTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--documents", type=Path, default=ROOT)
    parser.add_argument("--commit", action="store_true")
    options = parser.parse_args(argv)
    preset_file(options.data)
    folder = options.outputs / "tables"
    target = options.results if options.commit else folder
    file = options.results / f"{options.data}.jsonl"
    committed, here = len(read_rows(file)), len(finished(options.data, options.outputs))
    rows = refresh(options.data, options.outputs, options.results, target)
    if not rows:
        raise ValueError(
            f"no finished run of a suite on DATA={options.data}: make reproduce DATA={options.data}"
        )
    for text in write_tables(rows, folder):
        print(text)
    print(
        f"{count(len(rows), 'run')}: {committed} in {relative(file)} and {here} of make reproduce in {options.outputs}"
        "; a run in both counts once, other runs do not count"
    )
    print(f"Markdown, CSV, LaTeX and plots: {folder}; rows: {target / options.data}.jsonl")
    if options.commit:
        for path in fill_documents(rows, options.data, folder, options.documents):
            print(f"written: {path}")
    return 0
