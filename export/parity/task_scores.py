"""Score embeddings with the heads that an app gets: the numbers that decide whether a variant is kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.graphs.heads import AgeHead, ClassHead
from export.parity.frames import EvaluationFrames
from metrics import BiometryValidity, ZeroShotClassification
from metrics.names import HC18, HEADLINE
from models.zero_shot import class_logits

IMAGES_AT_ONCE = 64  # bounds images x 175 ages x D


def headline(benchmark: str) -> str:
    """Return the name of a benchmark's deciding number: ``planes/f1``."""
    return f"{benchmark}/{HEADLINE[benchmark]}"


def points(benchmark: str, value: float) -> float:
    """Put a headline on the scale of 0 to 100."""
    return value if benchmark == HC18 else 100 * value


def class_predictions(embeddings: NDArray[np.float32], heads: Mapping[str, ClassHead]) -> NDArray[np.int64]:
    """Return the top class of every frame and head, [N, heads]."""
    images = torch.from_numpy(embeddings)
    return np.stack(
        [class_logits(images, head.vectors).argmax(dim=1).numpy() for head in heads.values()], axis=1
    )


def classifier_scores(logits: Tensor, frames: EvaluationFrames, head: ClassHead) -> dict[str, float]:
    """Score a head's logits or probabilities [N, C] on its benchmark; empty where the frames lack it."""
    if head.name not in frames.rows:
        return {}
    metric = ZeroShotClassification(head.labels)
    targets = torch.tensor([head.labels.index(label) for label in frames.labels(head.name)])
    metric.update(logits[frames.rows[head.name]], targets)
    return {headline(head.name): float(metric.compute()["f1"])}


def task_scores(
    embeddings: NDArray[np.float32],
    frames: EvaluationFrames,
    heads: Mapping[str, ClassHead],
    ages: AgeHead | None,
) -> dict[str, float]:
    """Score the frames' embeddings [N, D] on every benchmark: ``{"planes/f1": 0.91, ...}``.

    Args:
        embeddings: Unit-length embeddings of `frames.records`, in order.
        frames: The frames.
        heads: Class heads by benchmark.
        ages: The age head; without it, or without the frames' spacings in it, HC18 is not scored.
    """
    images = torch.from_numpy(embeddings)
    scores: dict[str, float] = {}
    for head in heads.values():
        scores |= classifier_scores(class_logits(images, head.vectors), frames, head)
    spacings = [] if ages is None else ages.rows_of(frames.spacings())
    if ages is not None and spacings:
        validity, hc_mm = BiometryValidity(), frames.head_circumferences_mm()
        chosen = images[frames.rows[HC18]]
        for part in torch.arange(len(chosen)).split(IMAGES_AT_ONCE):
            printed = [spacings[row] for row in part.tolist()]
            validity.update(ages.table.similarity(chosen[part], printed), hc_mm[part])
        scores[headline(HC18)] = float(validity.compute()["validity"])
    return scores
