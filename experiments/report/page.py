"""Lay the report out: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from experiments.report import compare, figures, tables, verdict
from experiments.report.evidence import Evidence, disputes
from experiments.report.paired import agreement, same_images
from experiments.report.paper import SOURCE
from experiments.report.projection import projection_figure
from experiments.report.read_run import Details, Run
from experiments.report.reference import reference_of
from experiments.report.svg import drawing, inline_svg
from experiments.report.training import dynamics
from metrics.names import HC18, PLANES, RANDOM, STUDENT, SUBPLANES, TEACHER

HERE = Path(__file__).parent
PROJECTED = {TEACHER: "teacher", RANDOM: "student before training", STUDENT: "student after training"}


@dataclass(frozen=True)
class Subject:
    """A run with what is shown of it.

    Attributes:
        run: The run.
        title: What the report calls it; unique within the report.
        evidence: Projections and images, None where they could not be made.
        lacking: Why there is no evidence.
    """

    run: Run
    title: str
    evidence: Evidence | None
    lacking: str = ""


@dataclass
class Picture:
    """A figure on the page.

    Attributes:
        svg: The inline element.
        caption: Text below it.
    """

    svg: Markup
    caption: str = ""


@dataclass
class Dispute:
    """Images of one benchmark that only one of teacher and student got right.

    Attributes:
        title: Name of the benchmark.
        counts: Who was right, in words.
        gained: Images that only the student got right.
        lost: Images that only the teacher got right.
    """

    title: str
    counts: str
    gained: list[dict[str, str]] = field(default_factory=list)
    lost: list[dict[str, str]] = field(default_factory=list)


def picture(figure: Figure | None, label: str, caption: str = "") -> list[Picture]:
    """Return a figure for the page, or nothing."""
    return [] if figure is None else [Picture(inline_svg(figure, label), caption)]


def training_pictures(subject: Subject) -> list[Picture]:
    """Draw how training went."""
    run, title = subject.run, subject.title
    found = picture(figures.weight_figure(run), f"Off-diagonal weight of {title}")
    look = "Dotted: the teacher. Circle: the selected checkpoint."
    found += picture(figures.scores_figure(run), f"Validation scores of {title}", look)
    found += picture(figures.correlation_figure(run), f"Logit correlation of {title}")
    return found + picture(figures.losses_figure(run), f"Loss terms of {title}")


def _shares(details: Details, classes: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    counts = np.asarray(details["confusion_matrix"], dtype=np.float64)
    place = {name: number for number, name in enumerate(details["classes"])}
    shown = counts[np.ix_([place[name] for name in classes], [place[name] for name in columns])]
    total = counts[[place[name] for name in classes]].sum(axis=1, keepdims=True)
    return np.asarray(shown / np.maximum(total, 1))


def confusion_pictures(subject: Subject, benchmark: str) -> list[Picture]:
    """Draw the confusions of teacher and student side by side, and what changed between them."""
    run = subject.run
    found = {name: run.details(name, benchmark) for name in (TEACHER, STUDENT)}
    scored = {name: details for name, details in found.items() if details is not None}
    if STUDENT not in scored:
        return []
    names = scored[STUDENT]["classes"]
    matrices = [np.asarray(details["confusion_matrix"]) for details in scored.values()]
    rows = [name for number, name in enumerate(names) if matrices[0][number].sum()]
    guessed = sum(matrix.sum(axis=0) for matrix in matrices)
    columns = rows + [name for number, name in enumerate(names) if name not in rows and guessed[number]]
    shares = {name: _shares(details, rows, columns) for name, details in scored.items()}
    word = tables.TITLES[benchmark].removesuffix(" F1")
    pictures = []
    for name, values in shares.items():
        drawn = figures.confusion_figure(values, rows, columns, f"{name}: % of each true class")
        pictures += picture(drawn, f"Confusion matrix, {word}, {name} of {subject.title}")
    if len(shares) == 2:
        change = shares[STUDENT] - shares[TEACHER]
        drawn = figures.confusion_figure(
            change, rows, columns, "student minus teacher, points", difference=True
        )
        label = f"Difference of the confusion matrices, {word}, {subject.title}"
        pictures += picture(drawn, label, "Blue is better: more on the diagonal, less beside it.")
    return pictures


def growth_pictures(subject: Subject) -> list[Picture]:
    """Draw the ages read by teacher, student and random weights over the growth chart."""
    pictures = []
    for model in (TEACHER, STUDENT, RANDOM):
        details = subject.run.details(model, HC18)
        if details is not None:
            name = "random weights" if model == RANDOM else model
            title = f"{name}: {details['valid']} of {details['total']} valid, {details['validity']:.1f} %"
            drawn = figures.growth_figure(details["samples"], title)
            pictures += picture(drawn, f"Growth chart, {model} of {subject.title}")
    return pictures


def reliability_pictures(subject: Subject) -> list[Picture]:
    """Draw how far the confidences can be believed."""
    pictures = []
    for benchmark in (PLANES, SUBPLANES):
        curves, errors = {}, []
        for model in (STUDENT, TEACHER):
            details = subject.run.details(model, benchmark)
            if details is not None and details.get("reliability"):
                curves[model] = details["reliability"]
                fitted = f" ({details['ece_fitted']:.3f} after fitting)" if "ece_fitted" in details else ""
                errors.append(f"{model} {details['ece']:.3f}{fitted}")
        if curves:
            word = tables.TITLES[benchmark].removesuffix(" F1")
            drawn = figures.reliability_figure(curves, word)
            caption = f"Expected calibration error: {', '.join(errors)}."
            pictures += picture(drawn, f"Reliability, {word}, {subject.title}", caption)
    return pictures


def projection_pictures(subject: Subject) -> dict[str, list[Picture]]:
    """Draw the embeddings of each benchmark, by title of the benchmark."""
    found: dict[str, list[Picture]] = {}
    if subject.evidence is None:
        return found
    for benchmark, models in subject.evidence.projections.items():
        title = tables.TITLES[benchmark].removesuffix(" F1").removesuffix(" validity, %")
        for model, projection in models.items():
            facts = [
                ("between over within classes", projection.separation),
                ("effective rank", projection.rank),
                ("CKA with the teacher", projection.alignment),
            ]
            caption = "; ".join(f"{word} {value:.2f}" for word, value in facts if value is not None)
            drawn = projection_figure(
                projection.points, subject.evidence.classes[benchmark], PROJECTED[model]
            )
            label = f"Embeddings, {title}, {PROJECTED[model]}, {subject.title}"
            found.setdefault(title, []).extend(picture(drawn, label, caption))
    return found


def dispute_blocks(subject: Subject) -> list[Dispute]:
    """Gather the images that only one of teacher and student got right."""
    blocks = []
    for benchmark in subject.run.benchmarks():
        teacher, student = (subject.run.details(model, benchmark) for model in (TEACHER, STUDENT))
        if teacher is None or student is None or not same_images(teacher["samples"], student["samples"]):
            continue
        sides = agreement(teacher["samples"], student["samples"])
        counts = (
            f"{sides.both} images both right, {sides.neither} both wrong, "
            f"{len(sides.gained)} only the student right, {len(sides.lost)} only the teacher right"
        )
        chosen = disputes(teacher["samples"], student["samples"])
        pictures = {} if subject.evidence is None else subject.evidence.thumbnails
        cards = {side: [_card(pair, pictures) for pair in pairs] for side, pairs in chosen.items()}
        blocks.append(
            Dispute(tables.TITLES[benchmark].split(" F1")[0].split(" validity")[0], counts, **cards)
        )
    return blocks


def _card(pair: Any, pictures: dict[str, str]) -> dict[str, str]:
    teacher, student = pair
    said = {}
    for name, row in ((TEACHER, teacher), (STUDENT, student)):
        sure = f" ({row['probability']:.0%})" if "probability" in row else ""
        said[name] = f"{row['prediction']}{sure}"
    return {
        "name": str(teacher["name"]),
        "truth": str(teacher["target"]),
        **said,
        "jpeg": pictures.get(teacher["name"], ""),
    }


def section_of(subject: Subject) -> dict[str, Any]:
    """Return everything the template shows of one run."""
    run = subject.run
    return {
        "subject": subject,
        "training": training_pictures(subject),
        "repels": dynamics(run).repels,
        "per_class": [
            table
            for benchmark in (PLANES, SUBPLANES)
            if (table := tables.per_class(run, benchmark, run, TEACHER, "teacher")) is not None
        ],
        "confusion": {
            tables.TITLES[benchmark].removesuffix(" F1"): found
            for benchmark in (PLANES, SUBPLANES)
            if (found := confusion_pictures(subject, benchmark))
        },
        "growth": growth_pictures(subject),
        "projections": projection_pictures(subject),
        "disputes": dispute_blocks(subject),
        "reliability": reliability_pictures(subject),
        "subgroups": tables.subgroups(run),
        "deployment": [table for table in (tables.parity(run), tables.latency(run)) if table is not None],
        "commands": compare.commands(run, subject.evidence),
        "provenance": compare.provenance(run),
        "config": compare.raw_config(run),
    }


def render(subjects: Sequence[Subject]) -> str:
    """Return the report as one HTML document; whatever comes from data is escaped."""
    runs, titles = [subject.run for subject in subjects], [subject.title for subject in subjects]
    reference = reference_of(runs)
    corpora = dict.fromkeys(str(run.record["data"]) for run in runs)
    with drawing():
        context = {
            "title": f"{', '.join(titles)} on {', '.join(corpora)}",
            "subjects": subjects,
            "answers": verdict.answers(runs),
            "headline": tables.headline(runs, titles),
            "differences": tables.differences(runs, titles, reference),
            "overlay": picture(figures.overlay_figure(runs, titles), "Composite score of all runs"),
            "settings": compare.key_settings(runs, titles),
            "config_difference": compare.config_difference(runs, titles),
            "sections": [section_of(subject) for subject in subjects],
            "phantom": any(run.is_phantom for run in runs),
            "paper": SOURCE,
            "style": Markup((HERE / "style.css").read_text(encoding="utf-8")),
        }
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.jinja").render(context)
