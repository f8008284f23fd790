"""Disk cache of gestational-age text embeddings, by weights and prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.fabric.utilities import rank_zero_warn

from metrics import AGES_DAYS
from models.checkpoints.integrity import tensors_digest
from models.encoders.dual_encoder import DualEncoder
from models.files import atomic, digest
from models.zero_shot import AgeTable, Progress, age_embeddings, age_prompts, encode_prompts

TOLERANCE = 1e-3
"""Largest difference of the checked vector; rounding of another machine is far smaller."""


def stored_age_embeddings(
    folder: str | Path | None,
    model: DualEncoder,
    templates: Sequence[str],
    spacings: Iterable[str],
    progress: Progress | None = None,
) -> AgeTable:
    """Return the table of `models.zero_shot.age_embeddings`, from disk if it is stored.

    When a table is read, one vector is recomputed and compared, which detects a change of code or tokenizer.

    Args:
        folder: Folder of the tables, one ``.npz`` each: spacings x 175 x D float32 numbers. None stores nothing.
        model: As for `age_embeddings`, as are the others.
        templates: Texts.
        spacings: Printed spacings.
        progress: Called after every batch.
    """
    if folder is None:
        return age_embeddings(model, templates, spacings, progress)
    distinct = sorted(set(spacings))
    path = table_path(Path(folder), model, templates, distinct)
    stored = _read(path, distinct, next(model.parameters()).device) if path.is_file() else None
    if stored is not None:
        if _agrees(stored, model, templates):
            return stored
        rank_zero_warn(f"{path}: written by other code or with another tokenizer; recomputed")
    table = age_embeddings(model, templates, distinct, progress)
    try:
        with atomic(path) as partial:
            np.savez(partial, vectors=table.vectors.cpu().numpy())
    except OSError as error:  # a read-only folder, a full disk
        rank_zero_warn(f"{path}: {error.strerror or error}; the ages are embedded again next time")
    return table


def table_path(folder: Path, model: DualEncoder, templates: Sequence[str], spacings: Sequence[str]) -> Path:
    """Return the file of a table, named by everything that decides its numbers."""
    kind = next(model.parameters()).device.type
    settings = {
        "templates": list(templates),
        "spacings": list(spacings),
        "preprocessing": model.preprocessing.to_dict(),
        "recipe": model.recipe(),
        "autocast": torch.is_autocast_enabled(kind) and str(torch.get_autocast_dtype(kind)),
        "weights": tensors_digest(model.state_dict()),
    }
    return folder / f"ages-{digest(settings)}.npz"


def _agrees(table: AgeTable, model: DualEncoder, templates: Sequence[str]) -> bool:
    """Recompute the last age of the last spacing and compare."""
    prompts = age_prompts(templates, table.spacings[-1])[len(AGES_DAYS) - 1 :: len(AGES_DAYS)]
    fresh = encode_prompts(model, prompts).mean(dim=0)
    kept = table.vectors[-1, -1]
    return kept.shape == fresh.shape and bool((kept - fresh).abs().max() <= TOLERANCE)


def _read(path: Path, spacings: list[str], device: torch.device) -> AgeTable | None:
    """Read a table; None if the file is incomplete."""
    try:
        vectors = np.load(path)["vectors"]
    except Exception as error:  # a damaged archive can raise anything; its CRC-32 is checked
        rank_zero_warn(f"{path}: not a table of ages ({error}); recomputed")
        return None
    return AgeTable(tuple(spacings), torch.from_numpy(vectors).to(device))
