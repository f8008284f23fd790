"""Render the report as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from callbacks.evaluation.biometry_evaluation import draw_ages
from experiments.report import pictures, settings, tables, verdict
from experiments.report.evidence import Evidence, disputes
from experiments.report.paired import Pair, agreement, paired
from experiments.report.read_run import Run
from experiments.report.reference import reference_of
from experiments.report.training import dynamics
from figures.confusion import confusion_change_figure, confusion_figure
from figures.embeddings import embedding_figure
from figures.reliability import reliability_figure
from figures.style import themed_svg
from metrics.benchmarks import BENCHMARKS
from metrics.names import HC18, RANDOM, STUDENT, TEACHER

HERE = Path(__file__).parent
PROJECTED = {TEACHER: "teacher", RANDOM: "student before training", STUDENT: "student after training"}
FACTS = {
    "separation": "between over within classes", "rank": "effective rank", "alignment": "CKA with the teacher",
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A run and its evidence.

    Attributes:
        run: The run.
        title: What the report calls it; unique within the report.
        evidence: Embedding maps and images, None where they could not be made.
        lacking: Why there is no evidence.
    """

    run: Run
    title: str
    evidence: Evidence | None
    lacking: str = ""


class Picture(NamedTuple):
    """A figure on the page, with text below it."""

    svg: Markup
    caption: str


def picture(figure: Figure, label: str, caption: str = "") -> Picture:
    """Return a figure for the page; the label is read out by screen readers."""
    return Picture(Markup(themed_svg(figure, label)), caption)


def training_pictures(subject: Subject) -> Iterator[Picture]:
    """Draw how training went."""
    for name in (pictures.WEIGHT, pictures.SCORES, pictures.CORRELATION, pictures.TERMS):
        figure = pictures.training_figure(subject.run, name)
        if figure is not None:
            caption = "Circle: the selected checkpoint." if name == pictures.SCORES else ""
            yield picture(figure, f"{name} of {subject.title}", caption)


def confusion_pictures(subject: Subject, benchmark: str) -> Iterator[Picture]:
    """Draw the confusions of teacher and student side by side, and what changed between them."""
    word = f"{tables.WORDS[benchmark]}, {subject.title}"
    scored = {name: subject.run.details(name, benchmark) for name in (TEACHER, STUDENT)}
    for name, details in scored.items():
        if details is not None:
            f1 = {label: row["f1"] for label, row in details["per_class"].items()}
            drawn = confusion_figure(details["confusion_matrix"], details["classes"], name, f1)
            yield picture(drawn, f"Confusion matrix of the {name}, {word}")
    teacher, student = scored.values()
    if teacher is not None and student is not None and teacher["classes"] == student["classes"]:
        matrices = teacher["confusion_matrix"], student["confusion_matrix"]
        drawn = confusion_change_figure(*matrices, student["classes"], title="student minus teacher, points")
        caption = "Blue is better: more on the diagonal, less beside it."
        yield picture(drawn, f"Difference of the confusion matrices, {word}", caption)


def growth_pictures(subject: Subject) -> Iterator[Picture]:
    """Draw the ages predicted by teacher, student and random weights over the growth chart."""
    for model, name in ((TEACHER, TEACHER), (STUDENT, STUDENT), (RANDOM, "random weights")):
        details = subject.run.details(model, HC18)
        if details is not None:
            title = f"{name}: {details['valid']} of {details['total']} valid, {details['validity']:.1f} %"
            yield picture(draw_ages(details["samples"], title), f"Growth chart, {model} of {subject.title}")


def reliability_pictures(subject: Subject) -> Iterator[Picture]:
    """Draw the calibration of student and teacher, a figure a benchmark."""
    for benchmark in subject.run.benchmarks():
        curves, errors = {}, []
        for model in (STUDENT, TEACHER):
            details = subject.run.details(model, benchmark)
            if details is not None and details.get("reliability"):
                curves[model] = details["reliability"]
                fitted = f" ({details['ece_fitted']:.3f} after fitting)" if "ece_fitted" in details else ""
                errors.append(f"{model} {details['ece']:.3f}{fitted}")
        if curves:
            word, caption = tables.WORDS[benchmark], f"Expected calibration error: {', '.join(errors)}."
            yield picture(reliability_figure(curves, word), f"Reliability, {word}, {subject.title}", caption)


def projection_pictures(evidence: Evidence, benchmark: str, title: str) -> Iterator[Picture]:
    """Draw the embeddings of a benchmark's images by every model."""
    for model, projection in evidence.projections[benchmark].items():
        numbers = [
            f"{word} {projection[key]:.2f}" for key, word in FACTS.items() if projection[key] is not None
        ]
        name = PROJECTED[model]
        drawn = embedding_figure({name: projection["points"]}, evidence.classes[benchmark])
        yield picture(drawn, f"Embeddings, {tables.WORDS[benchmark]}, {name}, {title}", "; ".join(numbers))


def dispute_blocks(subject: Subject) -> list[dict[str, Any]]:
    """Gather the images that only one of teacher and student got right, a block a benchmark."""
    blocks = []
    for benchmark in subject.run.benchmarks():
        pairs = paired(*(subject.run.details(model, benchmark) for model in (TEACHER, STUDENT)))
        if pairs is not None:
            count = {side: len(found) for side, found in agreement(pairs).items()}
            counts = (
                f"{count['both']} images both right, {count['neither']} both wrong, "
                f"{count['gained']} only the student right, {count['lost']} only the teacher right"
            )
            images = subject.evidence.thumbnails if subject.evidence else {}
            cards = {side: [_card(pair, images) for pair in found] for side, found in disputes(pairs).items()}
            blocks.append({"title": tables.WORDS[benchmark], "counts": counts, **cards})
    return blocks


def _card(pair: Pair, images: dict[str, str]) -> dict[str, str]:
    name, truth = str(pair[0]["name"]), str(pair[0]["target"])
    card = {"name": name, "truth": truth, "jpeg": images.get(name, "")}
    for model, row in zip((TEACHER, STUDENT), pair, strict=True):
        sure = f" ({row['probability']:.0%})" if "probability" in row else ""
        card[model] = f"{row['prediction']}{sure}"
    return card


def section_of(subject: Subject) -> dict[str, Any]:
    """Return everything that the template shows of one run."""
    run, evidence = subject.run, subject.evidence or Evidence({}, {}, {})
    classified = [name for name in run.benchmarks() if BENCHMARKS[name].kind == "classification"]
    return {
        "subject": subject,
        "training": list(training_pictures(subject)),
        "repels": dynamics(run).repels,
        "per_class": [table for name in classified if (table := tables.per_class(run, name)) is not None],
        "confusion": {tables.WORDS[name]: list(confusion_pictures(subject, name)) for name in classified},
        "growth": list(growth_pictures(subject)),
        "projections": {
            tables.WORDS[name]: list(projection_pictures(evidence, name, subject.title))
            for name in evidence.projections
        },
        "disputes": dispute_blocks(subject),
        "reliability": list(reliability_pictures(subject)),
        "subgroups": tables.subgroups(run),
        "deployment": [table for table in (tables.parity(run), tables.latency(run)) if table is not None],
        "commands": settings.commands(run),
        "provenance": settings.provenance(run),
        "config": settings.raw_config(run),
    }


def render(subjects: Sequence[Subject]) -> str:
    """Return the report as one HTML document; everything that comes from data is escaped."""
    runs, titles = [subject.run for subject in subjects], [subject.title for subject in subjects]
    corpora = dict.fromkeys(str(run.record["data"]) for run in runs)
    main_settings, differing = settings.settings(runs, titles)
    overlay = pictures.comparison_figure(runs, titles)
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.jinja").render(
        title=f"{', '.join(titles)} on {', '.join(corpora)}",
        subjects=subjects,
        answers=verdict.answers(runs),
        headline=tables.headline(runs, titles),
        differences=tables.differences(runs, titles, reference_of(runs)),
        overlay=[] if overlay is None else [picture(overlay, "Composite score of all runs")],
        settings=main_settings,
        config_difference=differing,
        sections=[section_of(subject) for subject in subjects],
        phantom=any(run.is_phantom for run in runs),
        paper=tables.PAPER_SOURCE,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
    )
