"""Show results: one HTML file about finished runs, or a suite's results beside the paper's.

usage: sonodistill report RUN... [--out=FILE] [--trust]
       sonodistill table DATA [options]

report
  RUN                 folder of a finished run: outputs/EXP/RUN
  --out=FILE          file to write; default: report.html in the run's folder, or outputs/reports/
  --trust             build classes of other packages that a run's files name

table: our results and the methods' differences as Markdown, CSV, LaTeX and plots
  --commit            write the rows into --results, not into --outputs, and tables into README.md and docs/results.md
  --outputs=FOLDER    folder of all runs
  --results=FOLDER    folder of the committed rows
  --documents=FOLDER  folder of README.md and docs/
"""

from __future__ import annotations

from pathlib import Path

from experiments.process import Parser
from experiments.recipe_files import preset_file
from experiments.runs.run_folder import OUTPUTS
from experiments.suites.documents import ROOT, fill_documents
from experiments.suites.paper_costs import explain, published_costs
from experiments.suites.result_rows import RESULTS, refresh
from experiments.suites.table import write_tables


def main(argv: list[str]) -> int:
    """Run one command line, whose first word is the command."""
    return table(argv[1:]) if argv[0] == "table" else report(argv[1:])


def report(argv: list[str]) -> int:
    """Write the report of runs and print its path."""
    parser = Parser(prog="sonodistill report")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out")
    parser.add_argument("--trust", action="store_true")
    options = parser.parse_args(argv)
    from experiments.report.write import write_report  # behind the parser: a mistake is named at once
    from models.checkpoints.trust import settle_trust

    settle_trust(argv)
    print(f"report: {write_report(options.runs, options.out)}")
    return 0


def table(argv: list[str]) -> int:
    """Collect the rows of the finished runs, and print and write the tables.

    Raises:
        ValueError: There is no finished run of a suite on this data.
    """
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
    rows = refresh(options.data, options.outputs, options.results, target)
    if not rows:
        raise ValueError(
            f"no finished run of a suite on DATA={options.data}: make reproduce DATA={options.data}"
        )
    for text in write_tables(rows, folder, explain(published_costs())):
        print(text)
    print(f"Markdown, CSV, LaTeX and plots: {folder}; rows: {target / options.data}.jsonl")
    if options.commit:
        for path in fill_documents(rows, options.data, folder, options.documents):
            print(f"written: {path}")
    return 0
