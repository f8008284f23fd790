"""Where images lie in the embedding space: teacher, student before training, student after it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from callbacks.evaluation_mode import evaluation_mode
from datamodules.evaluation_dataset import EvaluationDataset, collate_evaluation
from datamodules.record import Record
from experiments.report.svg import CYCLE, brief, new_figure
from metrics.geometry import class_distance_ratio, effective_rank, linear_cka
from models import DualEncoder
from models.zero_shot import encode_images

MARKERS = ("o", "^", "s", "D", "v", "P", "X")
SEED = 0
PERPLEXITY = 25.0
COLLAPSED = 1e-5  # all embeddings within this are one point


@dataclass(frozen=True)
class Projection:
    """One model's view of the images.

    Attributes:
        points: t-SNE coordinates [N, 2].
        separation: Mean distance between classes over that within classes, in the full space; None when
            it is undefined, as for images that all fall on one point.
        rank: Effective number of dimensions used; None likewise.
        alignment: Linear CKA with the teacher; None for the teacher, without one, or likewise.
    """

    points: list[list[float]]
    separation: float | None
    rank: float | None
    alignment: float | None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Projection:
        """Rebuild what `dataclasses.asdict` made."""
        return cls(**values)


def evenly(records: Sequence[Record], classes: Sequence[str], most: int) -> list[int]:
    """Choose up to `most` records, the classes as evenly as they allow, always the same ones.

    Args:
        records: Candidates.
        classes: Class of each.
        most: Number to choose.

    Returns:
        Places in `records`, rising.
    """
    generator = np.random.default_rng(SEED)
    queues = {
        name: [place for place, label in enumerate(classes) if label == name] for name in sorted(set(classes))
    }
    for queue in queues.values():
        generator.shuffle(queue)
    chosen: list[int] = []
    while len(chosen) < min(most, len(records)):
        for queue in queues.values():
            if queue and len(chosen) < most:
                chosen.append(queue.pop())
    return sorted(chosen)


def embed(model: DualEncoder, records: Sequence[Record], batch_size: int = 64) -> NDArray[np.float32]:
    """Return the model's unit-length image embeddings [N, D] of the records, in their order."""
    loader = DataLoader(
        EvaluationDataset(list(records), model.preprocessing),
        batch_size=batch_size,
        collate_fn=collate_evaluation,
    )
    device = next(model.parameters()).device
    with evaluation_mode(model) as used:
        parts = [encode_images(used, batch["image"].to(device)).cpu() for batch in loader]
    return torch.cat(parts).numpy()


def tsne(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Lay embeddings [N, D] out in the plane, [N, 2], by t-SNE from their principal components.

    Embeddings are of unit length, so that Euclidean distances rank as cosines do. Exact and not Barnes-Hut:
    that one can crash the process when many points coincide, as those of a collapsed student do.

    Raises:
        ValueError: There are fewer than four images, or an embedding is not finite.
    """
    from sklearn.manifold import TSNE  # a second to import, and only needed here

    if len(embeddings) < 4:
        raise ValueError(f"projection: {len(embeddings)} images are too few for t-SNE")
    if not np.isfinite(embeddings).all():
        raise ValueError("projection: an embedding is not finite; the model has diverged")
    if np.ptp(embeddings, axis=0).max() < COLLAPSED:
        return np.zeros((len(embeddings), 2))
    perplexity = min(PERPLEXITY, (len(embeddings) - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=SEED, max_iter=400, method="exact")
    return np.asarray(layout.fit_transform(embeddings.astype(np.float64)), dtype=np.float64)


def project(embeddings: Mapping[str, NDArray[np.float32]], classes: Sequence[str]) -> dict[str, Projection]:
    """Lay every model's embeddings out and measure them in the full space.

    Args:
        embeddings: Model -> embeddings [N, D] of the same images.
        classes: Class of each image.

    Returns:
        Model -> its projection.
    """
    teacher = embeddings.get("teacher")
    found = {}
    for name, values in embeddings.items():
        tensor = torch.from_numpy(values)
        aligned = (
            None if teacher is None or name == "teacher" else linear_cka(torch.from_numpy(teacher), tensor)
        )
        found[name] = Projection(
            points=np.round(tsne(values), 2).tolist(),
            separation=_finite(class_distance_ratio(tensor, list(classes))),
            rank=_finite(effective_rank(tensor)),
            alignment=None if aligned is None else _finite(aligned),
        )
    return found


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def projection_figure(points: Sequence[Sequence[float]], classes: Sequence[str], title: str) -> Figure:
    """Draw one projection; classes differ in colour and marker."""
    figure = new_figure(3.4, 3.5)
    axis = figure.add_subplot()
    place = np.asarray(points, dtype=np.float64)
    labels = np.asarray(classes)
    names = sorted(set(classes))
    for number, (name, label) in enumerate(zip(names, brief(names), strict=True)):
        chosen = labels == name
        axis.scatter(
            place[chosen, 0], place[chosen, 1], s=11, alpha=0.75, linewidths=0, label=label,
            color=CYCLE[number % len(CYCLE)], marker=MARKERS[number % len(MARKERS)],
        )  # fmt: skip
    axis.set(xticks=[], yticks=[], title=title)
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)
    widest = max(map(len, brief(names)))
    figure.legend(
        loc="outside lower center",
        ncols=2 if widest > 12 else 3,
        fontsize=7.5,
        handletextpad=0.1,
        columnspacing=0.8,
    )
    return figure
