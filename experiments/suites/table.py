"""Table of a suite: mean and deviation over seeds beside the paper's values, as Markdown, CSV, LaTeX and plot."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.record import TABLE
from experiments.config import STUDENT_OPTION, TEACHER_OPTION
from experiments.paper import PAPER, PAPER_STUDENT_PARAMETERS, STUDENTS, TITLES
from experiments.suites.differences import GROWTH, capacity, differences, student_title, texts
from experiments.suites.result_rows import ResultRow, group_of
from export.parity.ledger import markdown_table
from figures.style import save_png
from figures.suite import capacity_figure, suite_figure
from metrics.benchmarks import BENCHMARKS, HC18
from metrics.names import (
    CONSTANT,
    EIGHT_CLASS,
    PIXEL_SIZE,
    RANDOM,
    STUDENT,
    TEACHER,
    constant_title,
    final_name,
    formatted,
    interval_names,
)
from models.files import atomic, write_text

PAPER_COLUMNS = (HC18, EIGHT_CLASS)
DIRTY = "-dirty"  # end of the commit of a checkout with changes
AGE_ERRORS = (("MAE, weeks", "mae_weeks", 2), ("Spearman", "spearman", 3))
OWN_INTERVAL = "95 % interval of one run"
COMPARISON_NOTE = (
    "Differences are paired by seed and patient; 95 % intervals and p values cover other seeds and patients, and the p "
    "values are Holm-corrected over all differences from one reference (over the whole table of gains). The smallest "
    "detectable difference is that which these seeds and patients would show with 80 % power at a two-sided 5 %, "
    "uncorrected."
)
# Preset -> public corpora that it trains on; for shards the manifest tells.
OWN_CORPORA = {
    "hc18": ("hc18",), "planes": ("planes",), "phantom": ("hc18", "planes"), "table": (TABLE,), "table-small": (TABLE,),
}  # fmt: skip


def all_columns() -> dict[str, tuple[str, str, int]]:
    """Return column of the table -> title, key of the score and digits; gestational age first, as in the paper.

    A column is named by its benchmark, and by the key where that is not the benchmark's headline: ``hc18/mae_weeks``.
    """
    columns = {}
    for benchmark in sorted(BENCHMARKS.values(), key=lambda benchmark: benchmark.kind):
        columns[benchmark.name] = (benchmark.title, benchmark.headline, benchmark.digits)
        if benchmark.kind == "biometry":
            for title, key, digits in AGE_ERRORS:
                columns[f"{benchmark.name}/{key}"] = (f"{benchmark.subject} {title}", key, digits)
    return columns | {EIGHT_CLASS: ("8-class F1", "f1", 3)}


def score_of(row: ResultRow, model: str, column: str, name: str) -> float | None:
    """Return a number of a run by the column's benchmark and its name there, such as ``f1`` or ``f1_ci_low``."""
    found: float | None = row["metrics"].get(final_name(model, column.partition("/")[0], name))
    return found


def scores(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Return every score of every run in long form.

    Returns:
        Columns ``line`` ("teacher", an experiment, "random", "pixel_size" or "constant", ordered as in the paper),
        ``run`` (number), ``column`` (of `all_columns`, ordered) and ``value``.
    """
    long = pd.DataFrame(
        [
            (line, run, column, float(value))
            for run, row in enumerate(rows)
            for line, model in {
                TEACHER: TEACHER, row["experiment"]: STUDENT, RANDOM: RANDOM, PIXEL_SIZE: PIXEL_SIZE,
                CONSTANT: CONSTANT,
            }.items()
            if (line, row["experiment"]) != (TEACHER, "random-teacher")  # it is not the teacher of the other runs
            for column, (_, key, _) in all_columns().items()
            if (value := score_of(row, model, column, key)) is not None
        ],
        columns=["line", "run", "column", "value"],
    )  # fmt: skip
    long["line"] = pd.Categorical(long["line"], [*TITLES, PIXEL_SIZE, CONSTANT], ordered=True)
    long["column"] = pd.Categorical(long["column"], [*all_columns()], ordered=True)
    return long


def summarise(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Return mean, sample deviation, number of runs and the paper's value, indexed by (line, column).

    The deviation is NaN for one run and where all runs share one value, as those of one teacher do.
    """
    grouped = scores(rows).groupby(["line", "column"], observed=True)["value"]
    summary = grouped.agg(
        mean=statistics.fmean,
        deviation=lambda values: statistics.stdev(values) if values.nunique() > 1 else float("nan"),
        runs="size",
    )
    summary["paper"] = [PAPER.get(line, {}).get(column) for line, column in summary.index]
    return summary


def line_titles(rows: Sequence[ResultRow]) -> dict[str, str]:
    """Return line -> title; the constant baseline's names its age."""
    answers = sorted({constant_title(row["metrics"]) for row in rows} - {""})
    return TITLES | {PIXEL_SIZE: "Pixel size alone", CONSTANT: " or ".join(answers).capitalize()}


def cells(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Return the table as texts: a row per line, ours in front of the paper's columns.

    The last row has half the width of a student's 95 % interval over its images, as the mean over runs.
    """
    summary = summarise(rows)
    lines = summary.index.unique("line")
    runs = scores(rows).groupby("line", observed=True)["run"].nunique()
    ours, paper = {}, {}
    for column, (title, key, digits) in all_columns().items():
        if column not in summary.index.unique("column"):
            continue
        ends = [[score_of(row, STUDENT, column, end) for end in interval_names(key)] for row in rows]
        widths = [(high - low) / 2 for low, high in ends if low is not None and high is not None]
        part = summary.xs(column, level="column").reindex(lines)
        ours[title] = [
            formatted(mean, digits) + ("" if pd.isna(deviation) else f" ± {deviation:.{digits}f}")
            for mean, deviation in zip(part["mean"], part["deviation"], strict=True)
        ] + [f"± {statistics.fmean(widths):.{digits}f}" if widths else "-"]
        if column in PAPER_COLUMNS:
            theirs = [PAPER.get(line, {}).get(column) for line in lines]
            paper[f"paper: {title}"] = [formatted(value, digits) for value in [*theirs, None]]
    names = {
        "experiment": [*(line_titles(rows)[line] for line in lines), OWN_INTERVAL],
        "runs": [*runs[lines].astype(str), str(len(rows))],
    }
    return pd.DataFrame(names | ours | paper)


def to_markdown(table: pd.DataFrame) -> str:
    """Return `cells` as a Markdown table."""
    return markdown_table([*table.columns], table.to_numpy().tolist()) + "\n"


def to_latex(table: pd.DataFrame) -> str:
    """Return `cells` as a LaTeX tabular for the booktabs package."""
    alignment = "l" + "r" * (len(table.columns) - 1)
    return str(table.to_latex(index=False, escape=True, column_format=alignment)).replace("±", r"$\pm$")


def to_csv(rows: Sequence[ResultRow]) -> str:
    """Return one line per number: experiment, metric, mean, deviation, runs and the paper's value."""
    return str(summarise(rows).rename_axis(["experiment", "metric"]).to_csv(lineterminator="\n"))


def scored_training_corpora(row: ResultRow) -> list[str]:
    """Return the corpora whose training patients are among the images that a run was scored on."""
    trained_on = row["trained_on"] or dict.fromkeys(OWN_CORPORA.get(row["data"], ()), "train")
    return [
        benchmark.corpus
        for name, benchmark in BENCHMARKS.items()
        if "all" in (row["split"].get(name), trained_on.get(benchmark.corpus))
        and benchmark.corpus in trained_on
    ]


def _brief_commit(commit: str) -> str:
    return commit.removesuffix(DIRTY)[:7] + (DIRTY if commit.endswith(DIRTY) else "")


def notes(rows: Sequence[ResultRow]) -> list[str]:
    """Return the notes below a table: how it was measured and with what it is comparable."""
    students = sorted({row["parameters"]["student"] for row in rows})
    counts = ", ".join(f"{count / 1e6:.2f} M" for count in students)
    chosen = sorted(
        {f"selected by {row['monitor']}" if row["monitor"] else "of the last step" for row in rows}
    )
    splits = sorted({split for row in rows for split in row["split"].values()})
    prompts = sorted({digest for row in rows for digest in row["protocol"].values()})
    digests = rows[0]["digests"]  # shared by the rows of a group
    weights = ", ".join(
        f"{name[2:]} {digests[name]}" for name in (TEACHER_OPTION, STUDENT_OPTION) if name in digests
    )
    data = ", ".join(f"{name} {digest}" for name, digest in digests.items() if not name.startswith("--"))
    seen = " and ".join(sorted({corpus for row in rows for corpus in scored_training_corpora(row)}))
    images = {(name, one["images"]) for row in rows for name, one in row["outcomes"].items()}
    mixed = sorted(name for name, number in Counter(name for name, _ in images).items() if number > 1)
    commits = sorted({_brief_commit(str(row["git_commit"])) for row in rows})
    steps = sorted({row["steps"] for row in rows})
    found = [
        f"DATA={rows[0]['data']}; mean ± sample deviation over runs with different seeds; checkpoints "
        f"{', '.join(chosen)}, scored on images of the split {', '.join(splits)} with the prompts "
        f"{', '.join(prompts)}.",
        seen and f"Scored images include the training patients of {seen}: not comparable with the paper.",
        mixed
        and f"Runs were scored on different images of {', '.join(mixed)}: not comparable; train the older ones again.",
        len(steps) > 1
        and f"Runs of {', '.join(map(str, steps))} steps: other numbers of processes or other data; not comparable.",
        (len(commits) > 1 or DIRTY in commits[0])
        and f"Runs of several commits or of uncommitted code, which may differ: {', '.join(commits)}.",
        weights and f"Weights given (SHA-256): {weights}.",
        data and f"Data given (SHA-256): {data}.",
        f"Student: {counts} parameters (the paper's: {PAPER_STUDENT_PARAMETERS}).",
        "The paper's values are of its private corpus, towers and prompts, selected on the images that it "
        "reports, which are all images of the sets (split all); they are comparable only with DATA=shards of a "
        "corpus without these sets, its weights, its protocol and that split.",
    ]
    return [note for note in found if note]


def _plot(rows: Sequence[ResultRow], path: Path) -> None:
    """Draw every run's scores beside the paper's, in the columns that the paper has."""
    titles, names = line_titles(rows), {column: title for column, (title, *_) in all_columns().items()}
    long = scores(rows).sort_values(["line", "column"], kind="stable")
    long = long[long["column"].isin(PAPER_COLUMNS)].astype({"line": str, "column": str})
    named = long.replace({"line": titles, "column": names})
    paper = {(titles[line], names[key]): value for line, own in PAPER.items() for key, value in own.items()}
    plotted = ", ".join([f"DATA={rows[0]['data']}", *rows[0]["arguments"]])
    baselines = [titles[line] for line in (TEACHER, RANDOM, PIXEL_SIZE, CONSTANT)]
    with atomic(path) as partial:
        save_png(suite_figure(named, paper, baselines, plotted), partial)


def _plot_capacity(gains: pd.DataFrame, path: Path, title: str) -> None:
    """Draw SRKD's gains over the sizes of the student."""
    own = gains[gains["student"] != GROWTH]
    drawn = own.assign(
        score=[BENCHMARKS[name].title for name in own["benchmark"]],
        over=[TITLES[name] for name in own["reference"]],
        parameters=[STUDENTS[student] for student in own["student"]],
        size=[student_title(student).split()[0] for student in own["student"]],
    )
    with atomic(path) as partial:
        save_png(capacity_figure(drawn, f"{title}: gain of SRKD"), partial)


def _title(row: ResultRow) -> str:
    student = [f"student {student_title(row['student'])}"] if row.get("student") else []
    return ", ".join(
        [f"DATA={row['data']}", *student, *([" ".join(row["arguments"])] if row["arguments"] else [])]
    )


def write_tables(rows: Sequence[ResultRow], folder: Path) -> list[str]:
    """Write the tables of every group of rows (see `group_of`) in every format; return the Markdown texts.

    Args:
        rows: Rows of one data preset.
        folder: Target folder; files are named ``DATA.md``, ``DATA-1.md``, ..., with ``-differences`` for those between
            methods and ``-capacity`` for SRKD's gains by size of the student.
    """
    written = []
    groups: dict[Any, list[ResultRow]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    # Runs without arguments and with the preset's student first; of several such groups the newest.
    newest = sorted(
        groups.items(), key=lambda item: max(str(row["finished"]) for row in item[1]), reverse=True
    )
    ordered = sorted(newest, key=lambda item: (len(item[0][0]), item[0][:2]))
    titles = Counter(_title(own[0]) for _, own in ordered)
    for place, (_, own) in enumerate(ordered):
        title = _title(own[0])
        if titles[title] > 1:
            files = own[0]["digests"] | {"prompts": " ".join(sorted({*own[0]["protocol"].values()}))}
            title = ", ".join([title, *(f"{name} {digest}" for name, digest in files.items())])
        path = str(folder / (own[0]["data"] + (f"-{place}" if place else "")))
        table, compared, remarks = cells(own), differences(own), notes(own)
        files = {".csv": to_csv(own), ".tex": to_latex(table)}
        text = f"### {title}\n\n{to_markdown(table)}\n"
        if len(compared):
            text += to_markdown(texts(compared)) + "\n"
            remarks.insert(1, COMPARISON_NOTE)
            files["-differences.csv"] = str(compared.to_csv(index=False, lineterminator="\n"))
            files["-differences.tex"] = to_latex(texts(compared))
        files[".md"] = text + "".join(f"- {note}\n" for note in remarks)
        written.append(files[".md"])
        for ending, content in files.items():
            write_text(Path(f"{path}{ending}"), content)
        _plot(own, Path(f"{path}.png"))
    settings = sorted({tuple(row["arguments"]) for row in rows}, key=lambda words: (len(words), words))
    for place, words in enumerate(settings):
        gains = capacity(rows_with(rows, words, any_student=True))
        if gains["student"].nunique() > 1:
            title = ", ".join([f"DATA={rows[0]['data']}", *([" ".join(words)] if words else [])])
            text = f"### {title}, gain by size of the student\n\n{to_markdown(texts(gains))}\n- {COMPARISON_NOTE}\n"
            written.append(text)
            path = str(folder / f"{rows[0]['data']}-capacity") + (f"-{place}" if place else "")
            write_text(Path(f"{path}.md"), text)
            write_text(Path(f"{path}.csv"), str(gains.to_csv(index=False, lineterminator="\n")))
            _plot_capacity(gains, Path(f"{path}.png"), title)
    return written


def rows_with(
    rows: Sequence[ResultRow], arguments: Sequence[str] = (), any_student: bool = False
) -> list[ResultRow]:
    """Return the rows of runs with these arguments, by default none, of the group that was finished last.

    Args:
        rows: Rows of one data preset.
        arguments: Arguments of the runs, in the order in which the suite was given them.
        any_student: Also the rows that differ from them in the student alone.
    """

    def key(row: ResultRow) -> tuple[Any, ...]:
        arguments, student, *rest = group_of(row)
        return (arguments, *rest) if any_student else (arguments, student, *rest)

    own = [
        row for row in rows if row["arguments"] == [*arguments] and (any_student or not row.get("student"))
    ]
    newest = max(own, key=lambda row: str(row["finished"]), default=None)
    return [] if newest is None else [row for row in own if key(row) == key(newest)]
