"""Run every variant on the evaluation frames, score it with the heads that ship, and fill the ledger's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.progress import show_progress
from export.graphs.heads import ClassHead
from export.parity.frames import EvaluationFrames
from export.parity.ledger import FAILED, OK, Gates, Row, embedding_figures, judge
from export.variants import Variant
from metrics import biometry_scores, classification_scores, predicted_age_days
from metrics.benchmarks import BENCHMARKS
from models.student.onnx_files import Floats, Run
from models.zero_shot import AgeTable, class_logits

REFERENCE = "torch-eager"


def measure(
    reference: Run,
    variants: Sequence[Variant],
    frames: EvaluationFrames,
    heads: Mapping[str, ClassHead],
    ages: AgeTable | None,
    gates: Gates,
    *,
    trained: bool,
    shipped: AgeTable | None = None,
) -> list[Row]:
    """Measure variants against the trained model.

    Args:
        reference: The trained model, not fused, in PyTorch.
        variants: What to measure.
        frames: The frames.
        heads: Class heads by benchmark.
        ages: The full age table, for the trained model.
        gates: The limits.
        trained: Whether task metrics mean anything.
        shipped: The age table that ships, for the variants.

    Returns:
        A row for the reference, then one a variant.
    """
    prepared = {variant.name: variant.run for variant in variants if not variant.whole}
    found = _outputs({REFERENCE: reference, **prepared}, frames)
    for variant in variants:
        if variant.whole:
            found[variant.name] = np.concatenate([variant.run(frame) for frame in frames.whole()])
    exact = found[REFERENCE]
    tasks = task_scores(exact, frames, heads, ages)
    rows = [Row(REFERENCE, "PyTorch, not fused: the reference", status=OK, frames=len(exact), tasks=tasks)]
    for variant in variants:
        row, output = Row(variant.name, variant.how, variant.gate, frames=len(exact)), found[variant.name]
        rows.append(row)
        if not np.isfinite(output).all():
            row.status, row.note = FAILED, "its output is not finite"
            continue
        if variant.head is None:
            row.figures = _figures(exact, output, heads)
            row.reference_tasks, row.tasks = tasks, task_scores(output, frames, heads, shipped)
        else:
            head = heads[variant.head]
            expected = class_logits(torch.from_numpy(exact), head.vectors).softmax(dim=1).numpy()
            difference = np.abs(expected - output)
            row.figures = {
                "difference_max": float(difference.max()),
                "difference_mean": float(difference.mean()),
                "flip_rate": float((expected.argmax(axis=1) != output.argmax(axis=1)).mean()),
            }
            row.tasks = _class_scores(torch.from_numpy(output), frames, head)
            row.reference_tasks = {name: tasks[name] for name in row.tasks}
        judge(row, gates, trained=trained)
    return rows


def _outputs(runs: Mapping[str, Run], frames: EvaluationFrames) -> dict[str, Floats]:
    """Run several functions over all frames, each frame read once; returns name -> outputs [N, ...]."""
    collected: dict[str, list[Floats]] = {name: [] for name in runs}
    with show_progress("parity", " frames") as progress:
        done = 0
        for pixels in frames.batches():
            for name, run in runs.items():
                collected[name].append(run(pixels))
            done += len(pixels)
            progress(done, len(frames.records))
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def _figures(exact: Floats, output: Floats, heads: Mapping[str, ClassHead]) -> dict[str, float]:
    classes = [
        [class_logits(torch.from_numpy(images), head.vectors).argmax(dim=1) for head in heads.values()]
        for images in (exact, output)
    ]
    flips = torch.stack(classes[0]) != torch.stack(classes[1])
    return {**embedding_figures(exact, output), "flip_rate": float(flips.double().mean())}


def task_scores(
    embeddings: Floats, frames: EvaluationFrames, heads: Mapping[str, ClassHead], ages: AgeTable | None
) -> dict[str, float]:
    """Score the frames' unit-length embeddings [N, D] on every benchmark: ``{"planes/f1": 0.91, ...}``.

    Without an age table, or without the frames' spacings in it, biometry is not scored.
    """
    images = torch.from_numpy(embeddings)
    scores: dict[str, float] = {}
    for head in heads.values():
        scores |= _class_scores(class_logits(images, head.vectors), frames, head)
    for name, spacings in frames.spacings().items():
        if ages is None or not set(spacings) <= set(ages.spacings):
            continue
        age_days = predicted_age_days(ages.similarity(images[frames.rows[name]], spacings))
        found = biometry_scores(age_days, frames.head_circumferences_mm(name))
        scores |= _headline(name, found)
    return scores


def _class_scores(logits: Tensor, frames: EvaluationFrames, head: ClassHead) -> dict[str, float]:
    """Score a head's logits or probabilities [N, C] on its benchmark; empty where the frames lack it."""
    if head.name not in frames.rows:
        return {}
    target = np.array([head.labels.index(label) for label in frames.labels(head.name)])
    found = classification_scores(logits[frames.rows[head.name]].float().cpu().numpy(), target, head.labels)
    return _headline(head.name, found)


def _headline(benchmark: str, result: Mapping[str, Any]) -> dict[str, float]:
    key = BENCHMARKS[benchmark].headline
    return {f"{benchmark}/{key}": float(result[key])}


def text_row(tokens: NDArray[np.int64], expected: Floats, run: Run, gates: Gates) -> Row:
    """Return the row of the text encoder: tokens [N, L] to embeddings [N, D]."""
    row = Row("onnx-text", "ONNX Runtime, CPU; texts instead of frames", "text", frames=len(tokens))
    row.figures = embedding_figures(expected, run(tokens))
    judge(row, gates, trained=True)
    return row
