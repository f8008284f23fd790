"""Embedding maps and disputed images of a run, kept in its folder as ``evidence.json``.

They need the data and the models, which may be gone when a report is written again or compared. So they are
computed once, right after training where possible.
"""

from __future__ import annotations

import base64
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from callbacks.evaluation.embedding_pass import embed
from datamodules import FetalDataModule
from datamodules.evaluation.dataset import EvaluationDataset
from datamodules.evaluation.protocol import Protocol
from datamodules.pairs.image_reading import read_image
from datamodules.record import Record
from experiments.plain_errors import UsageError, built
from experiments.report.read_run import FinishedRun
from figures.embeddings import MOST_POINTS, balanced_sample, tsne
from figures.images import COLD, overlay_heatmap
from metrics import gestational_age_weeks
from metrics.benchmarks import Benchmark
from metrics.geometry import class_distance_ratio, effective_rank, linear_cka
from metrics.names import RANDOM, STUDENT, TEACHER
from metrics.subgroups import age_band
from models import DualEncoder, freeze, from_checkpoint
from models.checkpoints.trust import check_classes
from models.evaluation_mode import evaluation_mode, random_twin
from models.files import write_text
from models.messages import one_line
from models.student.saliency import grad_cam
from models.zero_shot import class_embeddings

FILE = "evidence.json"
MOST_DISPUTES = 6  # of a benchmark and direction
THUMBNAIL_PX = 160
BATCH_SIZE = 64

Sample = Mapping[str, Any]
Pair = tuple[Sample, Sample]


@dataclass(frozen=True)
class Evidence:
    """Content of ``evidence.json``.

    Attributes:
        classes: Benchmark -> class of each image in its maps.
        projections: Benchmark -> model -> ``points`` (t-SNE, [N, 2]), and numbers of the full space, None where
            undefined: ``separation`` (mean distance between classes over that within), ``rank`` (effective
            number of dimensions), ``alignment`` (linear CKA with the teacher).
        thumbnails: Name of an image -> JPEG, base64.
        saliency: The student's surest right image of each class: ``name``, ``truth``, and model -> the image with the
            Grad-CAM of its class over it, JPEG, base64; ``MODEL_note``, what is to be said of it.
    """

    classes: dict[str, list[str]]
    projections: dict[str, dict[str, dict[str, Any]]]
    thumbnails: dict[str, str]
    saliency: list[dict[str, str]] = field(default_factory=list)


def read_evidence(folder: Path) -> Evidence | None:
    """Read a run's evidence, None when there is none; a damaged file is reported and counts as none."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Evidence(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        print(f"note: {path}: damaged ({error}); the report is written without it", file=sys.stderr)
        return None


def try_collect(run: FinishedRun, make: Callable[[], Evidence]) -> tuple[Evidence | None, str]:
    """Compute and keep evidence; return it, or None and the reason, for a report of the numbers alone."""
    try:
        found = make()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"note: {run.name}: no embedding maps and no images in the report: {error}", file=sys.stderr)
        return None, str(error)
    write_text(run.folder / FILE, json.dumps(asdict(found), separators=(",", ":")))
    return found, ""


def collect(
    run: FinishedRun, student: DualEncoder, teacher: DualEncoder | None, data: FetalDataModule
) -> Evidence:
    """Compute a run's evidence with the models that were scored; `teacher` is None without one.

    Raises:
        ValueError: The data no longer hold the images that were scored.
    """
    thumbnails = _thumbnails(run, data)  # first: fails early if the data have changed
    teachers = {} if teacher is None else {TEACHER: teacher}
    models = {**teachers, RANDOM: random_twin(student, 0), STUDENT: student}
    classes, projections = {}, {}
    classified = [benchmark for benchmark in run.benchmarks() if benchmark.kind == "classification"]
    for benchmark in classified or run.benchmarks():
        records = data.evaluation_records(benchmark.name, run.split(benchmark.name))
        labels = [_class(record, benchmark) for record in records]
        places = balanced_sample(labels, MOST_POINTS)
        if len(places) < 4:
            continue
        classes[benchmark.name] = [labels[place] for place in places]
        chosen, embeddings = [records[place] for place in places], {}
        for name, model in models.items():
            with evaluation_mode(model) as used:
                embeddings[name] = embed(used, chosen, BATCH_SIZE, 0, alone=True)["image"].numpy()
        projections[benchmark.name] = project(embeddings, classes[benchmark.name])
    saliency = _saliency(run, data, {**teachers, STUDENT: student})
    return Evidence(classes, projections, thumbnails, saliency)


def _class(record: Record, benchmark: Benchmark) -> str:
    if benchmark.kind == "biometry":
        return age_band((record.ga_days or 0) / 7) or "age unknown"
    return str(benchmark.label_of(record))


def project(
    embeddings: Mapping[str, NDArray[np.float32]], classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Lay out each model's embeddings [N, D] of the same images and measure them in the full space.

    Returns:
        Model -> its projection; see `Evidence`.
    """
    found = {}
    for name, values in embeddings.items():
        tensor = torch.from_numpy(values)
        numbers = {"separation": class_distance_ratio(tensor, list(classes)), "rank": effective_rank(tensor)}
        if name != TEACHER and TEACHER in embeddings:
            numbers["alignment"] = linear_cka(torch.from_numpy(embeddings[TEACHER]), tensor)
        found[name] = {"points": np.round(tsne(values), 2).tolist(), "alignment": None} | {
            key: round(value, 4) if math.isfinite(value) else None for key, value in numbers.items()
        }
    return found


def paired(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Pair] | None:
    """Join the details of two evaluations image by image.

    Returns:
        Rows (first, second) of every image that counts; None unless both scored the very same images with the
        same truth.
    """
    if not (first and second):
        return None
    rows, others = (
        {str(row["name"]): row for row in details["samples"] if row.get("assessed", True)}
        for details in (first, second)
    )
    if rows.keys() != others.keys() or any(rows[name]["target"] != others[name]["target"] for name in rows):
        return None
    return [(rows[name], others[name]) for name in rows]


def agreement(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Sort images by who is right: ``both``, ``neither``, ``gained`` (only the second), ``lost`` (only the first)."""
    groups: dict[str, list[Pair]] = {"neither": [], "gained": [], "lost": [], "both": []}
    for first, second in pairs:
        groups[[*groups][2 * bool(first["correct"]) + bool(second["correct"])]].append((first, second))
    return groups


def disputes(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Choose the images to show: ``gained`` (only the second model is right) and ``lost`` (only the first).

    The wrong model's most confident errors come first (of heads those farthest off), one a patient while
    there are other patients.
    """
    chosen = {}
    groups = agreement(pairs)
    for side, wrong in (("gained", 0), ("lost", 1)):
        ordered = sorted(groups[side], key=lambda pair: -error_severity(pair[wrong]))
        patients = pd.Series([str(pair[wrong]["patient"]) for pair in ordered], dtype=str)
        again = patients.duplicated().sort_values(kind="stable")
        chosen[side] = [ordered[place] for place in again.index[:MOST_DISPUTES]]
    return chosen


def error_severity(row: Sample) -> float:
    """Return how bad an error is: the probability it was given, or for a head the weeks it is off."""
    if "probability" in row:
        return float(row["probability"])
    return abs(float(row["age_days"]) / 7 - float(gestational_age_weeks(row["hc_mm"])))


def _thumbnails(run: FinishedRun, data: FetalDataModule) -> dict[str, str]:
    pictures: dict[str, str] = {}
    for name in (benchmark.name for benchmark in run.benchmarks()):
        pairs = paired(run.details(TEACHER, name), run.details(STUDENT, name))
        records = {record.name: record for record in data.evaluation_records(name, run.split(name))}
        for row, _ in (pair for chosen in disputes(pairs or []).values() for pair in chosen):
            if row["name"] not in records:
                raise ValueError(
                    f"{run.folder / 'results.json'}: image {row['name']!r} of {name} is no longer in the "
                    f"{run.split(name)} split; the data have changed: evaluate the checkpoint again (make evaluate)"
                )
            pictures[row["name"]] = thumbnail(read_image(records[row["name"]].image))
    return pictures


def _saliency(
    run: FinishedRun, data: FetalDataModule, models: Mapping[str, DualEncoder]
) -> list[dict[str, str]]:
    """Draw where the similarity with the right class comes from; nothing for towers without a spatial layer."""
    benchmark = next((one for one in run.benchmarks() if one.kind == "classification"), None)
    if benchmark is None:
        return []
    rows = [row for row in run.details(STUDENT, benchmark.name)["samples"] if row["correct"]]
    best = {row["target"]: row for row in sorted(rows, key=lambda row: float(row["probability"]))}
    by_name = {
        record.name: record for record in data.evaluation_records(benchmark.name, run.split(benchmark.name))
    }
    prompts = _prompts(run).prompts_of(benchmark)
    chosen = [best[label] for label in prompts if label in best and best[label]["name"] in by_name]
    cards = [{"name": str(row["name"]), "truth": str(row["target"])} for row in chosen]
    for name, model in models.items() if cards else ():
        dataset = EvaluationDataset([by_name[card["name"]] for card in cards], model.preprocessing)
        try:
            with evaluation_mode(model) as used:
                device = next(used.parameters()).device
                vectors = class_embeddings(used, {card["truth"]: prompts[card["truth"]] for card in cards})
                for number, card in enumerate(cards):
                    image = dataset[number]["image"][None].to(device)
                    heat = grad_cam(used, image, vectors[number : number + 1])[0].cpu().numpy()
                    card[name] = thumbnail(overlay_heatmap(read_image(by_name[card["name"]].image), heat))
                    card[f"{name}_note"] = "" if heat.any() else COLD
        except ValueError as error:
            print(f"note: {error}", file=sys.stderr)
    return cards


def _prompts(run: FinishedRun) -> Protocol:
    """Return the prompts that the run was scored with; the default ones where their file is gone."""
    file = (run.config.get("planes") or {}).get("protocol")
    return Protocol.load(file if file and Path(file).is_file() else None)


def thumbnail(image: NDArray[np.uint8]) -> str:
    """Return an image as a small JPEG in base64; its longer side has `THUMBNAIL_PX` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=78)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def evidence_from_folder(run: FinishedRun) -> Evidence:
    """Compute the evidence of a run from its checkpoint, its configuration and the data.

    Raises:
        FileNotFoundError: The checkpoint, the teacher or the data are absent.
        ValueError: The configuration is absent, incomplete or cannot be built.
    """
    path = run.folder / "config.yaml"
    missing = [name for name in ("model", "data") if not isinstance(run.config.get(name), dict)]
    if missing:
        raise ValueError(f"{path}: lacks {missing}, so models and data cannot be built")
    # The checkpoint that was scored: in the run's folder, or where results.json says.
    recorded = str(run.record.get("selection", {}).get("checkpoint") or "")
    places = [run.folder / "checkpoints" / (Path(recorded).name or "best.ckpt"), Path(recorded)]
    checkpoint = next((place for place in places if place.is_file()), None)
    if checkpoint is None:
        raise FileNotFoundError(f"{places[0]}: no such checkpoint, so the student cannot be built")
    student = from_checkpoint(str(checkpoint)).eval()
    tower = run.config["model"].get("teacher")
    check_classes([tower, run.config["data"]], str(path))
    try:
        teacher, data = built(DualEncoder, tower), built(FetalDataModule, run.config["data"])
    except FileNotFoundError:
        raise
    except (Exception, UsageError) as error:  # classes and settings of the user's own
        reason = getattr(error, "message", None) or one_line(error) or type(error).__name__
        raise ValueError(f"{path}: teacher or data cannot be built ({reason})") from error
    return collect(run, student, None if teacher is None else freeze(teacher), data)
