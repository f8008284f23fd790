"""All public corpora, and how to find them on disk."""

from __future__ import annotations

from pathlib import Path

from datamodules.corpora.african_planes import AFRICAN_PLANES
from datamodules.corpora.fetal_planes import FETAL_PLANES
from datamodules.corpora.hc18 import HC18

CORPORA = {corpus.name: corpus for corpus in (HC18, FETAL_PLANES, AFRICAN_PLANES)}


def find_corpora(root: Path) -> dict[str, Path]:
    """Return the folder of each corpus at most two levels below `root`, recognised by its table.

    Raises:
        FileNotFoundError: `root` does not exist or has no known table.
        ValueError: A corpus occurs twice.
    """
    found: dict[str, Path] = {}
    for name, corpus in CORPORA.items():
        tables = [path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(depth + corpus.table))]
        if len(tables) > 1:
            raise ValueError(
                f"{root}: {corpus.title} is there twice: {tables[0]} and {tables[1]}; name one folder"
            )
        if tables:
            found[name] = tables[0].parent
    if not found:
        known = ", ".join(corpus.table for corpus in CORPORA.values())
        raise FileNotFoundError(f"{root}: no corpus here or two folders down; looked for {known}")
    return found
