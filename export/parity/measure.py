"""Run every variant on the evaluation frames and fill the ledger's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from export.graphs.heads import AgeHead, ClassHead
from export.parity.frames import EvaluationFrames
from export.parity.ledger import FAILED, OK, Gates, Row, embedding_figures, flip_rate, judge
from export.parity.task_scores import class_predictions, classifier_scores, task_scores
from export.variants import Run, Variant
from models.zero_shot import class_logits

Floats = NDArray[np.float32]
FIRST_FRAMES = 8


def outputs(runs: Mapping[str, Run], frames: EvaluationFrames) -> dict[str, Floats]:
    """Run several functions over all frames, each frame read once; returns name -> outputs [N, ...]."""
    collected: dict[str, list[Floats]] = {name: [] for name in runs}
    with tqdm(total=len(frames.records), desc="parity", unit="frame", disable=None) as bar:
        for pixels in frames.batches():
            for name, run in runs.items():
                collected[name].append(run(pixels))
            bar.update(len(pixels))
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def measure(
    reference: Run,
    variants: Sequence[Variant],
    frames: EvaluationFrames,
    heads: Mapping[str, ClassHead],
    ages: AgeHead | None,
    gates: Gates,
    *,
    trained: bool,
) -> list[Row]:
    """Measure variants against the trained model.

    Args:
        reference: The trained model, not fused, in PyTorch.
        variants: What to measure.
        frames: The frames.
        heads: Class heads by benchmark.
        ages: The age head with exact vectors; variants are scored with the float16 vectors that ship.
        gates: The limits.
        trained: Whether task metrics mean anything.

    Returns:
        A row for the reference, then one a variant.
    """
    found = outputs({"torch-eager": reference, **{variant.name: variant.run for variant in variants}}, frames)
    exact = found["torch-eager"]
    tasks = task_scores(exact, frames, heads, ages)
    rows = [
        Row("torch-eager", "PyTorch, not fused: the reference", status=OK, frames=len(exact), tasks=tasks)
    ]
    shipped = None if ages is None else ages.rounded()
    for variant in variants:
        row, output = Row(variant.name, variant.how, variant.gate, frames=len(exact)), found[variant.name]
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
                "flip_rate": flip_rate(expected.argmax(axis=1), output.argmax(axis=1)),
            }
            row.tasks = classifier_scores(torch.from_numpy(output), frames, head)
            row.reference_tasks = {name: tasks[name] for name in row.tasks}
        judge(row, gates, trained=trained)
        rows.append(row)
    return rows


def _figures(exact: Floats, output: Floats, heads: Mapping[str, ClassHead]) -> dict[str, float]:
    flips = flip_rate(class_predictions(exact, heads), class_predictions(output, heads))
    return {**embedding_figures(exact, output), "flip_rate": flips}


def require_fused(
    reference: Run, fused: Variant, frames: EvaluationFrames, heads: Mapping[str, ClassHead], gates: Gates
) -> None:
    """Compare the fused model with the trained one on a few frames, before anything is converted.

    Args:
        reference: The trained model, not fused, in PyTorch.
        fused: The fused one.
        frames: The evaluation frames; the first ones are taken.
        heads: Class heads by benchmark.
        gates: The limits.

    Raises:
        ValueError: The fused model misses its gate.
    """
    first = frames.subset(np.arange(len(frames.records)) < FIRST_FRAMES)
    pixels = np.concatenate(list(first.batches()))
    exact, output = reference(pixels), fused.run(pixels)
    row = Row(fused.name, fused.how, fused.gate, frames=len(pixels))
    row.figures = _figures(exact, output, heads)
    judge(row, gates, trained=False)  # so few frames tell nothing about a task
    if row.status == FAILED:
        raise ValueError(
            f"export: row {row.variant}: {row.note} on the first {row.frames} frames; the fused student does not "
            "compute what the trained one computes, so nothing was converted"
        )


def text_row(tokens: NDArray[Any], expected: Floats, run: Run, gates: Gates) -> Row:
    """Return the row of the text encoder: tokens [N, L] to embeddings [N, D]."""
    row = Row("onnx-text", "ONNX Runtime, CPU; texts instead of frames", "text", frames=len(tokens))
    row.figures = embedding_figures(expected, run(tokens))
    judge(row, gates, trained=True)
    return row
