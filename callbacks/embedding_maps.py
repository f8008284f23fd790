"""Maps of embedding spaces: t-SNE of the images, coloured by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from torch import Tensor

from callbacks.figures import INK

# Okabe and Ito's palette without its yellow, which vanishes on white; markers repeat the message.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c8c8c")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
PERPLEXITY = 30.0
SMALLEST_MAP = 10  # fewer points make no map


def embedding_map(embeddings: Tensor, seed: int = 0) -> NDArray[np.float64]:
    """Lay embeddings out in the plane by t-SNE (van der Maaten and Hinton, JMLR 9, 2008).

    Args:
        embeddings: Unit-length embeddings [N, D].
        seed: Of the optimisation; the same seed gives the same map.

    Returns:
        Points [N, 2]; their directions and scales mean nothing.
    """
    perplexity = min(PERPLEXITY, (len(embeddings) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=seed)
    points: NDArray[np.float64] = tsne.fit_transform(embeddings.double().numpy())
    return points


def map_figure(maps: Mapping[str, NDArray[np.float64]], labels: Sequence[str], title: str) -> Figure:
    """Draw one map a model, side by side.

    Args:
        maps: Title of each panel and its points [N, 2].
        labels: Class of each point, N names.
        title: What is shown.
    """
    figure = Figure(figsize=(1.6 + 4.4 * len(maps), 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    names, own = sorted(set(labels)), np.asarray(labels)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (name, points) in zip(panels, maps.items(), strict=True):
        for position, label in enumerate(names):
            chosen = points[own == label]
            axes.scatter(
                chosen[:, 0],
                chosen[:, 1],
                s=16,
                color=COLOURS[position % len(COLOURS)],
                marker=MARKERS[position % len(MARKERS)],
                alpha=0.75,
                linewidths=0,
                label=f"{label} ({len(chosen)})",
            )
        axes.set(xticks=[], yticks=[])
        axes.set_title(name, fontsize=10, color=INK, loc="left")
        for side in axes.spines.values():
            side.set_color("#d0d0d0")
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, frameon=False, fontsize=9, loc="outside right center", markerscale=1.6)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure
