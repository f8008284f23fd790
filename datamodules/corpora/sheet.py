"""Contact sheet of a corpus: what its images look like, and which ones a check has found."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from datamodules.pairs.image_reading import read_image
from figures.images import image_figure
from figures.style import save_png
from models.files import atomic

MOST = 24


def write_sheet(images: pd.DataFrame, out: Path) -> Path:
    """Draw up to `MOST` readable images (see `check.scan_images`), the planes as evenly as they allow; return `out`.

    Pictures that are nearly black, or the same as another one, have red titles and come first.
    """
    images = images[images["error"].isna()].copy()
    images["doubt"] = images.duplicated("pixels", keep=False) | (images["contrast"] < 16)
    turn = images.groupby(images["plane"].fillna("").astype(str)).cumcount()
    chosen = images.assign(turn=turn).sort_values(["doubt", "turn"], ascending=[False, True], kind="stable")[
        :MOST
    ]
    titles = [
        "\n".join(text[-28:] for text in (name, f"{plane} {brain_plane}".strip()) if text)
        for name, plane, brain_plane in zip(
            chosen["name"], chosen["plane"].fillna(""), chosen["brain_plane"].fillna(""), strict=True
        )
    ]
    figure = image_figure([read_image(path) for path in chosen["image"]], titles, (~chosen["doubt"]).tolist())
    with atomic(out) as partial:
        save_png(figure, partial)
    return out
