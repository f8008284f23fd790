"""``make table``: our results beside the paper's, as Markdown, CSV, LaTeX and a plot."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.recipes import preset_file
from experiments.result_rows import RESULTS, Row, group_of, refresh
from experiments.run_folder import OUTPUTS
from experiments.shorthand import STUDENT, TEACHER
from experiments.suite_plot import plot_suite
from experiments.suite_summary import COLUMNS, Score, Summary, summarise
from experiments.suites import F1, PAPER, PAPER_STUDENT_PARAMETERS, VALIDITY
from experiments.tower_costs import explain, published_costs
from metrics.names import HC18, PLANES, SUBPLANES

# Benchmark -> the public corpus of its images, and preset -> those that it trains on; shards tell by their manifest.
SCORED_CORPORA = {PLANES: "planes", SUBPLANES: "planes", HC18: "hc18"}
OWN_CORPORA = {"hc18": ("hc18",), "planes": ("planes",), "phantom": ("hc18", "planes")}
DIGITS = {VALIDITY: 1, PLANES: 3, SUBPLANES: 3, F1: 3}


def cell(score: Score | None, column: str, plus_minus: str = "±") -> str:
    """Print mean and deviation, ``88.6 ± 0.4``; a dash where there is nothing."""
    if score is None:
        return "-"
    digits = DIGITS[column]
    spread = "" if score.deviation is None else f" {plus_minus} {score.deviation:.{digits}f}"
    return f"{score.mean:.{digits}f}{spread}"


def _shown(lines: Sequence[Summary]) -> list[str]:
    return [column for column in COLUMNS if any(column in line.scores for line in lines)]


def _header(columns: Sequence[str]) -> list[str]:
    paper = [f"paper: {COLUMNS[column]}" for column in (VALIDITY, F1) if column in columns]
    return ["experiment", "runs", *(COLUMNS[column] for column in columns), *paper]


def _cells(line: Summary, columns: Sequence[str], plus_minus: str) -> list[str]:
    paper = PAPER.get(line.name, {})
    theirs = [
        f"{paper[column]:.{DIGITS[column]}f}" if paper else "-"
        for column in (VALIDITY, F1)
        if column in columns
    ]
    ours = [cell(line.scores.get(column), column, plus_minus) for column in columns]
    return [line.title, str(line.runs), *ours, *theirs]


def to_markdown(lines: Sequence[Summary]) -> str:
    """Return a Markdown table."""
    columns = _shown(lines)
    rows = [_header(columns), ["---", *["---:"] * (len(_header(columns)) - 1)]]
    rows += [_cells(line, columns, "±") for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def to_latex(lines: Sequence[Summary]) -> str:
    """Return a LaTeX tabular for the booktabs package."""
    columns = _shown(lines)
    header = _header(columns)
    body = [" & ".join(_cells(line, columns, r"$\pm$")) + r" \\" for line in lines]
    head = " & ".join(text.replace("%", r"\%") for text in header) + r" \\"
    rows = [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([*rows, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_csv(lines: Sequence[Summary]) -> str:
    """Return one line a number: experiment, metric, mean, deviation, runs, and the paper's value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["experiment", "metric", "mean", "deviation", "runs", "paper"])
    for line in lines:
        for column, score in line.scores.items():
            deviation = "" if score.deviation is None else repr(score.deviation)
            paper = PAPER.get(line.name, {}).get(column, "")
            writer.writerow([line.name, column, repr(score.mean), deviation, len(score.values), paper])
    return text.getvalue()


def notes(rows: Sequence[Row]) -> list[str]:
    """Say what the numbers are, and are not, comparable with."""
    students = sorted({row["parameters"]["student"] for row in rows})
    counts = ", ".join(f"{count / 1e6:.2f} M" for count in students)
    monitors = sorted({str(row["monitor"]) for row in rows})
    splits = sorted({split for row in rows for split in row["split"].values()})
    prompts = sorted({digest for row in rows for digest in row["protocol"].values()})
    digests = rows[0].get("digests", {})  # one group's rows share them
    weights = ", ".join(f"{name[2:]} {digests[name]}" for name in (TEACHER, STUDENT) if name in digests)
    data = ", ".join(f"{name} {digest}" for name, digest in digests.items() if not name.startswith("--"))
    seen = sorted({corpus for row in rows for corpus in scored_training_corpora(row)})
    return [
        f"DATA={rows[0]['data']}; mean ± sample deviation over runs with different seeds; checkpoints "
        f"selected by {', '.join(monitors)}, scored on images of the split {', '.join(splits)} with the "
        f"prompts {', '.join(prompts)}.",
        *(
            [
                f"Scored images include the training patients of {' and '.join(seen)}: not comparable with the paper."
            ]
            if seen
            else []
        ),
        *([f"Weights given (SHA-256): {weights}."] if weights else []),
        *([f"Data given (SHA-256): {data}."] if data else []),
        f"Student: {counts} parameters (the paper's: {PAPER_STUDENT_PARAMETERS}).",
        "The paper's values are of its private corpus, towers and prompts, selected on the images that it "
        "reports, which are all images of the sets (split all); they are comparable only with DATA=shards of a "
        "corpus without these sets, its weights, its protocol and that split.",
    ]


def scored_training_corpora(row: Row) -> list[str]:
    """Return the corpora whose training patients are among the images that a run was scored on."""
    own = dict.fromkeys(OWN_CORPORA.get(row["data"], ()), "train")
    trained_on = row.get("trained_on") or own
    return [
        corpus
        for benchmark, corpus in SCORED_CORPORA.items()
        if corpus in trained_on and "all" in (row["split"].get(benchmark), trained_on[corpus])
    ]


def write_tables(rows: Sequence[Row], folder: Path, name: str, costs: Sequence[str]) -> str:
    """Write the table of one group of runs in every format, and return the Markdown.

    Args:
        rows: Runs with the same data, arguments and weights.
        folder: Folder of the tables.
        name: File name without its ending.
        costs: Notes on the towers' costs.
    """
    lines = summarise(rows)
    arguments = " ".join(rows[0]["arguments"])
    title = f"### DATA={rows[0]['data']}" + (f", {arguments}" if arguments else "")
    remarks = "\n".join(f"- {note}" for note in [*notes(rows), *costs])
    texts: dict[str, Callable[[], str]] = {
        "md": lambda: f"{title}\n\n{to_markdown(lines)}\n{remarks}\n",
        "csv": lambda: to_csv(lines),
        "tex": lambda: to_latex(lines),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for ending, text in texts.items():
        partial = folder / f".{name}.{ending}.partial"
        partial.write_text(text(), encoding="utf-8")
        partial.replace(folder / f"{name}.{ending}")
    plot_suite(
        lines, folder / f"{name}.png", f"DATA={rows[0]['data']}" + (", own arguments" if arguments else "")
    )
    return texts["md"]()


def main(argv: list[str]) -> int:
    """Write the rows of the finished runs, and print and write the tables.

    Args:
        argv: ``DATA [--commit] [--outputs FOLDER] [--results FOLDER]``.

    Raises:
        ValueError: There is no finished run of a suite on this data.
    """
    parser = argparse.ArgumentParser(prog="table", description=__doc__)
    parser.add_argument("data", help="data preset")
    parser.add_argument("--outputs", type=Path, default=OUTPUTS, help="folder of all runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the committed rows")
    parser.add_argument(
        "--commit",
        action="store_true",
        help="write the rows into --results, to be committed, not into --outputs",
    )
    arguments = parser.parse_args(argv)
    preset_file(arguments.data)
    folder = arguments.outputs / "tables"
    target = arguments.results if arguments.commit else folder
    rows = refresh(arguments.data, arguments.outputs, arguments.results, target)
    if not rows:
        raise ValueError(
            f"no finished run of a suite on DATA={arguments.data}: make reproduce DATA={arguments.data}"
        )
    costs = explain(published_costs())
    groups = sorted({group_of(row) for row in rows}, key=lambda group: (len(group[0]), group))
    for number, group in enumerate(groups):
        own = [row for row in rows if group_of(row) == group]
        print(write_tables(own, folder, arguments.data + (f"-{number}" if number else ""), costs))
    print(f"Markdown, CSV, LaTeX and plot: {folder}; rows: {target / arguments.data}.jsonl")
    return 0
