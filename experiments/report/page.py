"""Render the report as one self-contained HTML file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from callbacks.evaluation.biometry_evaluation import draw_ages
from experiments.process import python_here, relative
from experiments.report import tables, verdict
from experiments.report.evidence import Evidence, Pair, agreement, disputes, paired
from experiments.report.read_run import FinishedRun
from experiments.report.reference import reference_of
from experiments.report.training import (
    CORRELATION,
    SCORES,
    TERMS,
    WEIGHT,
    comparison_figure,
    dynamics,
    training_figure,
)
from figures.confusion import confusion_change_figure, confusion_figure
from figures.embeddings import embedding_figure
from figures.reliability import reliability_figure
from figures.style import themed_svg
from metrics.benchmarks import BENCHMARKS, Benchmark
from metrics.names import RANDOM, STUDENT, TEACHER

HERE = Path(__file__).parent
PROJECTED = {TEACHER: "teacher", RANDOM: "student before training", STUDENT: "student after training"}
FACTS = {
    "separation": "between over within classes", "rank": "effective rank", "alignment": "CKA with the teacher",
}  # fmt: skip


class Subject(NamedTuple):
    """A run, its title, unique within the report, and its evidence or why there is none."""

    run: FinishedRun
    title: str
    evidence: Evidence | None
    reason: str = ""


class Picture(NamedTuple):
    """A figure on the page, with text below it."""

    svg: Markup
    caption: str


def picture(figure: Figure, label: str, caption: str = "") -> Picture:
    """Return a figure for the page; the label is read out by screen readers."""
    return Picture(Markup(themed_svg(figure, label)), caption)  # nosec B704  # Matplotlib escapes texts


def training(subject: Subject) -> Iterator[Picture]:
    """Draw how training went."""
    for name in (WEIGHT, SCORES, CORRELATION, TERMS):
        figure = training_figure(subject.run, name)
        if figure is not None:
            circled = name == SCORES and dynamics(subject.run).checkpoint is not None
            caption = "Circle: the scored checkpoint." if circled else ""
            yield picture(figure, f"{name} of {subject.title}", caption)


def confusions(subject: Subject, benchmark: Benchmark) -> Iterator[Picture]:
    """Draw the confusions of teacher and student side by side, and what changed between them."""
    word, titles = f"{benchmark.subject}, {subject.title}", subject.run.titles
    teacher, student = scored = [subject.run.details(name, benchmark.name) for name in (TEACHER, STUDENT)]
    for name, details in zip((TEACHER, STUDENT), scored, strict=True):
        if details:
            f1 = {label: row["f1"] for label, row in details["per_class"].items()}
            drawn = confusion_figure(details["confusion_matrix"], details["classes"], titles[name], f1)
            yield picture(drawn, f"Confusion matrix of the {titles[name]}, {word}")
    if teacher and student and teacher["classes"] == student["classes"]:
        matrices = teacher["confusion_matrix"], student["confusion_matrix"]
        drawn = confusion_change_figure(*matrices, student["classes"], title="student minus teacher, points")
        caption = "Blue is better: more on the diagonal, less beside it."
        yield picture(drawn, f"Difference of the confusion matrices, {word}", caption)


def growth(subject: Subject, benchmark: Benchmark) -> Iterator[Picture]:
    """Draw the ages predicted by teacher, student and random weights over the growth chart."""
    for model in (TEACHER, STUDENT, RANDOM):
        details, name = subject.run.details(model, benchmark.name), subject.run.titles[model]
        if details:
            title = f"{name}: {details['valid']} of {details['total']} valid, {details['validity']:.1f} %"
            label = f"Growth chart, {benchmark.subject}, {name} of {subject.title}"
            yield picture(draw_ages(details["samples"], title), label)


def reliability(subject: Subject) -> Iterator[Picture]:
    """Draw the calibration of student and teacher, a figure a benchmark."""
    for benchmark in subject.run.benchmarks():
        curves, errors = {}, []
        for model in (STUDENT, TEACHER):
            details, name = subject.run.details(model, benchmark.name), subject.run.titles[model]
            if details.get("reliability"):
                curves[name] = details["reliability"]
                fitted = f" ({details['ece_fitted']:.3f} after fitting)" if "ece_fitted" in details else ""
                errors.append(f"{name} {details['ece']:.3f}{fitted}")
        if curves:
            drawn = reliability_figure(curves, benchmark.subject)
            caption = f"Expected calibration error: {', '.join(errors)}."
            yield picture(drawn, f"Reliability, {benchmark.subject}, {subject.title}", caption)


def projections(subject: Subject) -> Iterator[tuple[str, list[Picture]]]:
    """Draw the embeddings of each benchmark's images by every model."""
    if subject.evidence is None:
        return
    for benchmark, models in subject.evidence.projections.items():
        drawn, word = [], BENCHMARKS[benchmark].subject
        for model, found in models.items():
            name = PROJECTED[model].replace(STUDENT, subject.run.titles[STUDENT])
            figure = embedding_figure({name: found["points"]}, subject.evidence.classes[benchmark])
            facts = [f"{text} {found[key]:.2f}" for key, text in FACTS.items() if found[key] is not None]
            drawn.append(picture(figure, f"Embeddings, {word}, {name}, {subject.title}", "; ".join(facts)))
        yield word, drawn


def disagreements(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield the images that only one of teacher and student got right, and counts, by benchmark."""
    images = subject.evidence.thumbnails if subject.evidence else {}
    for benchmark in subject.run.benchmarks():
        pairs = paired(*(subject.run.details(model, benchmark.name) for model in (TEACHER, STUDENT)))
        if pairs is not None:
            count = {side: len(found) for side, found in agreement(pairs).items()}
            cards = {side: [_card(pair, images) for pair in found] for side, found in disputes(pairs).items()}
            yield {"title": benchmark.subject, "count": count, **cards}


def _card(pair: Pair, images: dict[str, str]) -> dict[str, str]:
    name, truth = str(pair[0]["name"]), str(pair[0]["target"])
    card = {"name": name, "truth": truth, "jpeg": images.get(name, "")}
    for model, row in zip((TEACHER, STUDENT), pair, strict=True):
        sure = f" ({row['probability']:.0%})" if "probability" in row else ""
        card[model] = f"{row['prediction']}{sure}"
    return card


def commands(run: FinishedRun) -> dict[str, str]:
    """Return what was run, how to repeat it, and how to write the report again: purpose -> command."""
    folder, python = shlex.quote(relative(run.folder)), python_here()
    found = {}
    if run.record.get("command"):
        words = map(str, run.record["command"])
        found["as it was started"] = shlex.join([python, "-m", "experiments", *words])
    commit = str(run.record.get("git_commit") or "").removesuffix("-dirty")
    if commit:
        found["the same code"] = f"git checkout {shlex.quote(commit)}"
    if run.config and not run.history.empty:
        again = f"--config {folder}/config.yaml --run {shlex.quote(f'{run.folder.name}-again')}"
        found["the same settings"] = f"{shlex.quote(python)} -m experiments fit {again}"
    return {**found, "this report": f"make report RUN={folder}"}


def render(subjects: Sequence[Subject]) -> str:
    """Return the report as one HTML document; everything that comes from data is escaped."""
    runs, titles = [subject.run for subject in subjects], [subject.title for subject in subjects]
    corpora = dict.fromkeys(str(run.record["data"]) for run in runs)
    overlay = comparison_figure(runs, titles)
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for draw in (training, confusions, growth, reliability, projections, disagreements, dynamics):
        environment.globals[draw.__name__] = draw
    return environment.get_template("template.html.jinja").render(
        title=f"{', '.join(titles)} on {', '.join(corpora)}",
        subjects=subjects,
        answers=[] if all(run.scores_teacher for run in runs) else verdict.answers(runs),
        headline=tables.headline(runs, titles),
        tested=all(run.splits() == ["test"] for run in runs),
        differences=tables.differences(runs, titles, reference_of(runs)),
        overlay=[] if overlay is None else [picture(overlay, "Composite score of all runs")],
        settings=tables.settings(runs, titles),
        commands=commands,
        relative=relative,
        yaml=partial(yaml.safe_dump, sort_keys=False, allow_unicode=True),
        tables=tables,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),  # nosec B704  # our own file
    )
