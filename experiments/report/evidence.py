"""What the report shows beside the numbers, kept in the run's folder: projections, and images in dispute.

It needs the data and the models, which may be gone or far away when a report is read again or compared. So it
is worked out once, right after training where possible, and kept as ``evidence.json``.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from callbacks.evaluation_mode import random_twin
from datamodules import FetalDataModule
from datamodules.image_reading import read_image
from datamodules.record import Record
from experiments.report.paired import agreement, same_images
from experiments.report.projection import Projection, embed, evenly, project
from experiments.report.read_run import Run
from metrics import gestational_age_weeks
from metrics.names import HC18, PLANES, RANDOM, STUDENT, SUBPLANES, TEACHER
from metrics.subgroups import age_band
from models import DualEncoder

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]

FILE = "evidence.json"
MOST_IMAGES = 300  # of one projection; more only crowd it
MOST_DISPUTES = 6  # of a benchmark and direction
THUMBNAIL_PX = 160


@dataclass(frozen=True)
class Evidence:
    """Content of ``evidence.json``.

    Attributes:
        classes: Benchmark -> class of each projected image.
        projections: Benchmark -> model -> projection.
        thumbnails: Name of an image -> JPEG, base64.
        command: The command line of a run by an earlier version; later ones keep it in ``results.json``.
    """

    classes: dict[str, list[str]] = field(default_factory=dict)
    projections: dict[str, dict[str, Projection]] = field(default_factory=dict)
    thumbnails: dict[str, str] = field(default_factory=dict)
    command: str | None = None


def read_evidence(folder: Path) -> Evidence | None:
    """Read a run's evidence, None when there is none yet; a damaged file is named and counts as none."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        projections = {
            benchmark: {name: Projection.from_dict(values) for name, values in models.items()}
            for benchmark, models in content.pop("projections").items()
        }
        return Evidence(projections=projections, **content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        print(f"note: {path}: damaged ({error}), so the report goes without it", file=sys.stderr)
        return None


def write_evidence(evidence: Evidence, folder: Path) -> None:
    """Write ``evidence.json`` whole or not at all."""
    partial = folder / f".{FILE}.partial"
    partial.write_text(json.dumps(asdict(evidence), separators=(",", ":")), encoding="utf-8")
    partial.replace(folder / FILE)


def collect(run: Run, student: DualEncoder, teacher: DualEncoder | None, data: FetalDataModule) -> Evidence:
    """Work a run's evidence out.

    Args:
        run: The run, scored.
        student: With the weights that were scored.
        teacher: The teacher, None without one.
        data: Where the images are.

    Returns:
        The evidence.

    Raises:
        ValueError: The data no longer hold the images that were scored.
    """
    split = _split(run)
    thumbnails = _thumbnails(
        run, data, split
    )  # first: it finds out whether the data are still those of the run
    models = {} if teacher is None else {TEACHER: teacher}
    models |= {RANDOM: random_twin(student, 0), STUDENT: student}
    classes, projections = {}, {}
    for benchmark in _projected(run):
        records = data.evaluation_records(benchmark, split)
        labels = [_class(record, benchmark) for record in records]
        places = evenly(records, labels, MOST_IMAGES)
        if len(places) < 4:
            continue
        chosen = [records[place] for place in places]
        classes[benchmark] = [labels[place] for place in places]
        embeddings = {name: embed(model, chosen) for name, model in models.items()}
        projections[benchmark] = project(embeddings, classes[benchmark])
    return Evidence(classes, projections, thumbnails)


def _split(run: Run) -> str:
    scored = run.benchmarks()
    details = run.details(STUDENT, scored[0]) if scored else None
    return str((details or {}).get("split", "test"))


def _projected(run: Run) -> list[str]:
    """Planes and sub-planes are drawn; heads only where there is nothing else."""
    named = run.benchmarks()
    return [name for name in (PLANES, SUBPLANES) if name in named] or [
        name for name in (HC18,) if name in named
    ]


def _class(record: Record, benchmark: str) -> str:
    if benchmark == PLANES:
        return str(record.plane)
    if benchmark == SUBPLANES:
        return str(record.brain_plane)
    return age_band((record.ga_days or 0) / 7) or "age unknown"


def disputes(
    reference: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]
) -> dict[str, list[Pair]]:
    """Choose the images to show: ``gained`` (only the second model is right) and ``lost`` (only the first).

    The wrong model's most confident errors come first (of heads those farthest off), one a patient while
    there are other patients.
    """
    sides = agreement(reference, samples)
    gained = sorted(sides.gained, key=lambda pair: -gravity(pair[0]))
    lost = sorted(sides.lost, key=lambda pair: -gravity(pair[1]))
    return {"gained": _other_patients_first(gained), "lost": _other_patients_first(lost)}


def gravity(row: Mapping[str, Any]) -> float:
    """Return how bad an error is: the probability it was given, or for a head the weeks it is off."""
    if "probability" in row:
        return float(row["probability"])
    return abs(float(row["age_days"]) / 7 - float(gestational_age_weeks(row["hc_mm"])))


def _other_patients_first(pairs: Sequence[Pair]) -> list[Pair]:
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(str(pair[0]["patient"]), pair)
    others = [pair for pair in pairs if first[str(pair[0]["patient"])] is not pair]
    return [*first.values(), *others][:MOST_DISPUTES]


def _thumbnails(run: Run, data: FetalDataModule, split: str) -> dict[str, str]:
    pictures: dict[str, str] = {}
    for benchmark in run.benchmarks():
        teacher, student = run.details(TEACHER, benchmark), run.details(STUDENT, benchmark)
        if teacher is None or student is None or not same_images(teacher["samples"], student["samples"]):
            continue
        records = {record.name: record for record in data.evaluation_records(benchmark, split)}
        for pairs in disputes(teacher["samples"], student["samples"]).values():
            for row, _ in pairs:
                if row["name"] not in records:
                    raise ValueError(
                        f"{run.folder / 'results.json'}: image {row['name']!r} of {benchmark} is no longer in the "
                        f"{split} split of the data, which have changed since; evaluate the checkpoint again "
                        "(make evaluate)"
                    )
                pictures[row["name"]] = thumbnail(records[row["name"]].image)
    return pictures


def thumbnail(path: Path) -> str:
    """Return an image as a small JPEG in base64; its longer side has `THUMBNAIL_PX` pixels."""
    picture = Image.fromarray(np.asarray(read_image(path)))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=78)
    return base64.b64encode(stream.getvalue()).decode("ascii")
