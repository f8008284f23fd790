"""Run every variant on the evaluation frames and fill the ledger's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from export.frames import EvaluationFrames
from export.heads import AgeHead, ClassHead
from export.parity import EMULATED, FAILED, OK, Gates, Row, embedding_figures, flip_rate, judge
from export.task_scores import class_predictions, classifier_scores, task_scores
from export.variants import Run, Variant
from models.zero_shot import class_logits

Floats = NDArray[np.float32]
FIRST_FRAMES = 8


def gray_frames(pixels: Floats) -> NDArray[np.bool_]:
    """Say which frames [N, 3, S, S] have equal channels, so that a gray variant must agree with RGB."""
    return np.asarray((pixels == pixels[:, :1]).all(axis=(1, 2, 3)))


def outputs(runs: Mapping[str, Run], gray: Iterable[str], frames: EvaluationFrames) -> dict[str, Floats]:
    """Run several functions over all frames, each frame read once; returns name -> outputs [N, ...]."""
    collected: dict[str, list[Floats]] = {name: [] for name in runs}
    grays = set(gray)
    with tqdm(total=len(frames.records), desc="parity", unit="frame", disable=None) as bar:
        for pixels in frames.batches():
            for name, run in runs.items():
                collected[name].append(run(pixels[:, :1] if name in grays else pixels))
            collected.setdefault("is gray", []).append(gray_frames(pixels))  # type: ignore[arg-type]
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
        ages: The age head with exact vectors; variants are scored with the rounded ones that ship.
        gates: The limits.
        trained: Whether task metrics mean anything.

    Returns:
        A row for the reference, then one a variant.
    """
    runs = {"torch-eager": reference, **{variant.name: variant.run for variant in variants}}
    found = outputs(runs, [variant.name for variant in variants if variant.gray], frames)
    exact = found["torch-eager"]
    tasks = task_scores(exact, frames, heads, ages)
    first = Row("torch-eager", "PyTorch, not fused: the reference", status=OK, frames=len(exact), tasks=tasks)
    shipped = None if ages is None else ages.rounded()
    rows = [first]
    for variant in variants:
        row = Row(variant.name, variant.how, variant.gate)
        keep = found["is gray"].astype(bool) if variant.gray else np.ones(len(exact), dtype=bool)
        _fill(row, variant, exact, found[variant.name], keep, heads)
        if row.frames and variant.head is not None:
            row.tasks = classifier_scores(torch.from_numpy(found[variant.name]), frames, heads[variant.head])
            row.reference_tasks = {name: tasks[name] for name in row.tasks}
        elif row.frames:
            own = frames if keep.all() else frames.subset(keep)
            # Both on the same frames: a gray camera's model is not blamed for colour frames it cannot take.
            row.reference_tasks = tasks if keep.all() else task_scores(exact[keep], own, heads, ages)
            row.tasks = task_scores(found[variant.name][keep], own, heads, shipped)
        if row.frames:
            _judge(row, variant, gates, trained=trained, left_out=int((~keep).sum()))
        rows.append(row)
    return rows


def require_fused(
    reference: Run, fused: Variant, frames: EvaluationFrames, heads: Mapping[str, ClassHead], gates: Gates
) -> None:
    """Check on a few frames that fusing changed nothing: every file would be written in vain.

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
    row.figures = embedding_figures(exact, output)
    row.figures["flip_rate"] = flip_rate(class_predictions(exact, heads), class_predictions(output, heads))
    judge(row, gates, trained=False)  # so few frames tell nothing about a task
    if row.status == FAILED:
        raise ValueError(
            f"export: row {row.variant}: {row.note} on the first {row.frames} frames; fused, the student computes "
            "something else than it was trained to, and nothing was converted"
        )


def _judge(row: Row, variant: Variant, gates: Gates, *, trained: bool, left_out: int) -> None:
    judge(row, gates, trained=trained)
    if left_out:
        row.note = "; ".join(filter(None, [row.note, f"{left_out} colour frames left out"]))
    if variant.emulated and row.status == OK:
        row.status = EMULATED


def _fill(
    row: Row,
    variant: Variant,
    exact: Floats,
    output: Floats,
    keep: NDArray[np.bool_],
    heads: Mapping[str, ClassHead],
) -> None:
    row.frames = int(keep.sum())
    if row.frames == 0:
        row.note = "no frame with equal channels"
        return
    exact, output = exact[keep], output[keep]
    if variant.head is None:
        row.figures = embedding_figures(exact, output)
        row.figures["flip_rate"] = flip_rate(
            class_predictions(exact, heads), class_predictions(output, heads)
        )
        return
    logits = class_logits(torch.from_numpy(exact), heads[variant.head].vectors)
    expected = logits.softmax(dim=1).numpy()
    difference = np.abs(expected - output)
    row.figures = {
        "difference_max": float(difference.max()),
        "difference_mean": float(difference.mean()),
        "flip_rate": flip_rate(expected.argmax(axis=1), output.argmax(axis=1)),
    }


def text_row(tokens: NDArray[Any], expected: Floats, run: Run, gates: Gates) -> Row:
    """Return the row of the text encoder: tokens [N, L] to embeddings [N, D]."""
    row = Row("onnx-text", "ONNX Runtime, CPU; texts instead of frames", "text", frames=len(tokens))
    row.figures = embedding_figures(expected, run(tokens))
    judge(row, gates, trained=True)
    return row
