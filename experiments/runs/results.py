"""results.json: a run's scores and their provenance."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from rich.table import Column, Table

from callbacks import OffDiagonalSchedule
from datamodules.redaction import redacted
from experiments.process import arguments_here
from experiments.report.read_run import FinishedRun
from experiments.report.tables import OVER_PATIENTS, baseline_tables
from experiments.report.tables import Table as ReportTable
from lightning_modules import DistillationModule
from metrics.benchmarks import BENCHMARKS, composite_score, eight_class_interval, own_benchmarks
from metrics.names import (
    AGE_INTERVAL,
    CONSTANT,
    EIGHT_CLASS,
    GEOMETRY,
    NONE_OF_THESE,
    PLANES,
    PROBE,
    RANDOM,
    RETRIEVAL,
    STUDENT,
    SUBPLANES,
    TEACHER,
    final_composite_name,
    final_name,
    formatted,
    geometry_name,
    interval_names,
    with_interval,
)
from models.files import package_versions, without_nan

PACKAGES = (
    "torch", "torchvision", "lightning", "timm", "open_clip_torch", "transformers", "torchmetrics", "numpy",
    "albumentations", "opencv-python-headless", "wandb",
)  # fmt: skip
MODELS = (TEACHER, STUDENT, RANDOM)


def git_commit() -> str | None:
    """Return the commit of the checkout (with ``-dirty`` if files differ); None outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def evaluation_results(trainer: Trainer) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the flat metrics and the details of all evaluation callbacks."""
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for key, value in getattr(callback, "results", {}).items():
            details.setdefault(key, {}).update(value)  # several evaluations score one model
        metrics.update(getattr(callback, "final_metrics", {}))
    for model in (name for name in (*MODELS, CONSTANT) if name in details):
        metrics.update(joint_metrics(model, details[model]))
    return metrics, details


def joint_metrics(model: str, details: Mapping[str, Any]) -> dict[str, float]:
    """Return a model's composite score and its F1 over the eight classes of both plane benchmarks.

    Args:
        model: "student", "teacher", "random" or "constant", whose images have no predictions and no such interval.
        details: Benchmark -> details of its evaluation.
    """
    scores = {
        b.name: details[b.name][b.headline]
        for b in BENCHMARKS.values()
        if b.headline in details.get(b.name, {})
    }
    if not scores:
        return {}
    found = {final_composite_name(model): composite_score(scores)}
    if {PLANES, SUBPLANES} <= scores.keys():
        f1 = composite_score({name: scores[name] for name in (PLANES, SUBPLANES)})
        both = [details[name].get("samples", []) for name in (PLANES, SUBPLANES)]
        named = {"f1": f1}
        if all(both):
            answers = [
                ([row["target"] for row in rows], [row["prediction"] for row in rows]) for rows in both
            ]
            patients = [str(row["patient"]) for rows in both for row in rows]
            intervals = [eight_class_interval(answers, patients=who) for who in (None, patients)]
            named = with_interval("f1", f1, *intervals)
        found |= {final_name(model, EIGHT_CLASS, key): value for key, value in named.items()}
    return found


def collect(
    trainer: Trainer, module: DistillationModule, selection: ModelCheckpoint, checkpoint: str
) -> dict[str, Any]:
    """Return scores and provenance for results.json after a test (schema: docs/metrics.md); None replaces NaN.

    `checkpoint` is the path of the scored checkpoint; empty for the current weights.
    """
    metrics, details = evaluation_results(trainer)
    schedules = [one for one in trainer.callbacks if isinstance(one, OffDiagonalSchedule)]  # type: ignore[attr-defined]
    best = selection.best_model_score
    record: dict[str, Any] = {
        "metrics": metrics,
        "selection": {
            "checkpoint": checkpoint,
            "monitor": selection.monitor,
            "score": None if best is None else float(best),
        },
        "parameters": {
            role: sum(p.numel() for p in model.parameters())
            for role, model in (("student", module.student), ("teacher", module.teacher))
            if model is not None
        },
        "steps": trainer.global_step,
        # Length of the weight schedule.
        "scheduled_steps": next((one.total_steps for one in schedules), None),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": arguments_here(),
        "git_commit": git_commit(),
        "versions": package_versions(*PACKAGES),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "device": str(module.device)},
        "details": details,
        "benchmarks": own_benchmarks([name for name in BENCHMARKS if name in details.get(STUDENT, {})]),
    }
    return dict(redacted(without_nan(record)))


def print_table(record: Mapping[str, Any], folder: Path) -> None:
    """Print the scores of the models and of the baselines without an image, and the run's folder."""
    run = FinishedRun(folder, dict(record))
    benchmarks, metrics = run.benchmarks(), record["metrics"]
    if not benchmarks:
        print(f"nothing scored: {record['data']} has no benchmark (docs/own-data.md adds one)\nrun: {folder}")
        return
    splits = sorted({run.details(STUDENT, one.name)["split"] for one in benchmarks})
    images = " and ".join(SPLITS.get(split, split) for split in splits)
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
        for model in MODELS
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


SPLITS = {"test": "test patients, seen once", "all": "all images, training images included"}
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
