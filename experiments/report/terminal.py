"""Scores of a finished run in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from experiments.report.read_run import FinishedRun
from experiments.report.tables import OVER_PATIENTS, SPLITS, baseline_tables
from experiments.report.tables import Table as ReportTable
from metrics.benchmarks import BENCHMARKS
from metrics.names import (
    AGE_INTERVAL,
    EIGHT_CLASS,
    GEOMETRY,
    NONE_OF_THESE,
    PROBE,
    RANDOM,
    RETRIEVAL,
    STUDENT,
    TEACHER,
    final_name,
    formatted,
    geometry_name,
    interval_names,
)

SPLITS_SEEN = SPLITS | {"test": "test patients, seen once"}
EIGHT_KEYS = ("f1", *interval_names("f1"))
BETWEEN = {
    "cka": "linear CKA",
    "diagonal_correlation": "correlation of diagonal logits",
    "off_diagonal_correlation": "of off-diagonal logits",
}
BEYOND = {
    f"{RETRIEVAL}/image_to_text_r1": "image to text R@1",
    f"{RETRIEVAL}/image_to_text_r10": "image to text R@10",
    f"{RETRIEVAL}/text_to_image_r1": "text to image R@1",
    f"{RETRIEVAL}/text_to_image_r10": "text to image R@10",
    f"{GEOMETRY}/effective_rank": "effective rank",
    f"{GEOMETRY}/class_distance_ratio": "between / within planes",
}


def print_table(record: Mapping[str, Any], folder: Path) -> None:
    """Print the scores of the models and of the baselines without an image, and the run's folder."""
    run = FinishedRun(folder, dict(record))
    benchmarks, metrics = run.benchmarks(), record["metrics"]
    if not benchmarks:
        print(f"nothing scored: {record['data']} has no benchmark (docs/own-data.md adds one)\nrun: {folder}")
        return
    images = " and ".join(SPLITS_SEEN.get(split, split) for split in run.splits())
    columns = [Column(one.title, justify="right", no_wrap=True) for one in benchmarks]
    table = Table("model", *columns, title=f"{record['experiment']} on {record['data']}: {images}")
    logged = {name.partition("/")[0] for name in metrics}
    titles = {model: title for model, title in run.titles.items() if model in logged}
    for model, title in titles.items():
        scores = (run.metric(model, one.name, one.headline) for one in benchmarks)
        table.add_row(title, *map(formatted, scores, (one.digits for one in benchmarks)))
    tables = zip(benchmarks, baseline_tables(run), strict=True)
    ages = [_ages(own) for one, own in tables if one.kind == "biometry"]
    for shown in (table, *ages, _frozen_embeddings(run)):
        if shown.row_count:
            Console().print(shown)
    counts = [f"{one.name} {int(metrics[final_name(STUDENT, one.name, 'n_scored')])}" for one in benchmarks]
    print(
        *_remarks(run),
        f"images scored: {', '.join(counts)}",
        f"results, checkpoints and plots: {folder}",
        sep="\n",
    )


def _ages(table: ReportTable) -> Table:
    """Return a table of `baseline_tables` for a terminal of 80 columns: without the interval over patients."""
    names = [name for name in table.head if name != OVER_PATIENTS]
    columns = (Column(name, justify="right" if number else "left") for number, name in enumerate(names))
    shown = Table(*columns, title=table.caption)
    for row in table.rows:
        assert isinstance(row, dict)  # no groups
        shown.add_row(*(str(row[name]) for name in names))
    return shown


def _remarks(run: FinishedRun) -> Iterator[str]:
    """Yield more scores, a line each: the paper's eight classes, embeddings, "none of these", age intervals."""
    metrics = run.record["metrics"]
    cells = [
        "{} {} [{}, {}]".format(
            run.titles[model], *(formatted(run.metric(model, EIGHT_CLASS, key)) for key in EIGHT_KEYS)
        )
        for model in (TEACHER, STUDENT, RANDOM)
        if final_name(model, EIGHT_CLASS, "f1") in metrics
    ]
    if cells:
        yield f"F1 over eight classes [95 % bootstrap interval over images]: {', '.join(cells)}"
    between = {title: geometry_name(key) for key, title in BETWEEN.items() if geometry_name(key) in metrics}
    if between:
        yield "teacher and student: " + ", ".join(
            f"{t} {formatted(metrics[name])}" for t, name in between.items()
        )
    for name in BENCHMARKS:
        keys = [f"{name}_{key}" for key in ("auroc", "kept", "false_accept")]
        auroc, kept, accepted = (run.metric(STUDENT, NONE_OF_THESE, key) for key in keys)
        if auroc is not None:
            yield (
                f'"none of these", {name}: AUROC {formatted(auroc)}; {kept:.0%} of known images kept, '
                f'{accepted:.0%} of "other" accepted'
            )
    keys = ["coverage", "width_days", "nominal"]
    coverage, width, nominal = (run.metric(STUDENT, AGE_INTERVAL, key) for key in keys)
    if coverage is not None:
        yield f"age intervals for {nominal:.0%} of patients: {coverage:.0%} of heads covered, {width:.0f} days wide"


def _frozen_embeddings(run: FinishedRun) -> Table:
    """Return a table of linear probes, retrieval and geometry; without rows where they were not evaluated."""
    metrics, models = run.record["metrics"], {run.titles[model]: model for model in (TEACHER, STUDENT)}
    table = Table("beyond zero-shot", *models, title="frozen embeddings")
    probes = {
        f"{PROBE}/{one.probe or one.name}_f1": f"linear probe, {one.probe or one.name} F1"
        for one in BENCHMARKS.values()
    }
    for name, title in {**probes, **BEYOND}.items():
        group, key = name.split("/")
        cells = []
        for model in models.values():
            full = geometry_name(key, model) if group == GEOMETRY else final_name(model, group, key)
            spread = metrics.get(f"{full}_std")
            cells.append(formatted(metrics.get(full)) + ("" if spread is None else f" ± {formatted(spread)}"))
        if set(cells) != {"-"}:
            table.add_row(title, *cells)
    return table
