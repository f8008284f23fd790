"""t-SNE maps of image embeddings, coloured by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.manifold import TSNE

from figures.style import CYCLE, MARKERS, MUTED, brief, new_figure, styled

MOST_POINTS = 200  # of one map; more only crowd it, and exact t-SNE takes time by their square
COLLAPSED = 1e-5  # all embeddings within this are one point


def tsne(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Lay unit-length embeddings [N, D] out as points [N, 2] by t-SNE (van der Maaten and Hinton, JMLR 9, 2008).

    It starts from the principal components and always gives the same map. It is exact: Barnes-Hut can crash the process
    when many points coincide, as those of a collapsed student do.

    Raises:
        ValueError: There are fewer than four embeddings, or one is not finite.
    """
    if len(embeddings) < 4:
        raise ValueError(f"t-SNE: {len(embeddings)} images are too few; it needs 4 or more")
    if not np.isfinite(embeddings).all():
        raise ValueError("t-SNE: an embedding is not finite; the model has diverged")
    if np.ptp(embeddings, axis=0).max() < COLLAPSED:
        return np.zeros((len(embeddings), 2))
    layout = TSNE(
        perplexity=min(30.0, (len(embeddings) - 1) / 3),
        init="pca",
        random_state=0,
        max_iter=400,
        method="exact",
    )
    return np.asarray(layout.fit_transform(embeddings.astype(np.float64)), dtype=np.float64)


def balanced_sample(classes: Sequence[str], most: int) -> list[int]:
    """Return the places, rising, of up to `most` images, the classes as evenly as they allow, always the same."""
    shuffled = pd.Series(list(classes)).sample(frac=1, random_state=0)
    turn = shuffled.groupby(shuffled).cumcount()  # every class gives its first image, then its second, ...
    return sorted(turn.sort_values(kind="stable").index[:most])


@styled
def embedding_figure(maps: Mapping[str, ArrayLike], labels: Sequence[str], title: str = "") -> Figure:
    """Draw maps of the same N images side by side; classes differ in colour and marker.

    Args:
        maps: Title of each map -> points [N, 2].
        labels: Class of each point, N names.
        title: What is shown.
    """
    figure = new_figure(3.5 * len(maps), 3.7 + 0.3 * bool(title))
    names, own = sorted(set(labels)), np.asarray(labels)
    shown = brief(names)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axis, (name, points) in zip(panels, maps.items(), strict=True):
        for number, label in enumerate(names):
            chosen = np.asarray(points, dtype=np.float64)[own == label]
            axis.scatter(
                *chosen.T, s=13, alpha=0.75, linewidths=0, label=f"{shown[number]} ({len(chosen)})",
                color=(*CYCLE, MUTED)[number % 7], marker=MARKERS[(number + number // 7) % 7],
            )  # fmt: skip
        axis.set(xticks=[], yticks=[], title=name)
        axis.spines[:].set_visible(False)
    wide = max(map(len, shown)) > 8
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, markerscale=1.4,
        ncols=len(maps) * (2 if wide else 3), handletextpad=0.1, columnspacing=0.8,
    )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
