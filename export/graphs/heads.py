"""Zero-shot heads: class vectors and gestational-age vectors made from prompts, so that no text tower has to ship.

They ship in one file, heads.safetensors. Swift, Kotlin, JavaScript and `verify_coreml.py` read it without a library:
8 bytes of little-endian header length, the header as JSON with labels and prompts, the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from datamodules.evaluation.protocol import Protocol
from datamodules.progress import show_progress
from metrics import AGES_DAYS
from metrics.benchmarks import BENCHMARKS
from metrics.biometry import predicted_age_days
from models import DualEncoder
from models.age_table_cache import stored_age_embeddings
from models.student.onnx_files import AGES, BASIS
from models.zero_shot import COSINE_SCALE, AgeTable, class_embeddings

RANKS = (16, 32, 48, 64, 96, 128, 192)
# Two days are what rounding to float16 alone moves some heads whose fifteenth and sixteenth ages nearly tie.
DAYS, SHARE_WITHIN = 2, 0.99
FEWEST = 40  # heads: of fewer, nothing is left out of the table, since others could need it
GRID_ROWS = 1000  # spacings, 0.01 mm apart; float16 coordinates of 1000 spacings and 64 ranks take 22 MB
CLASS_FORMULA = "probabilities = softmax(cosine_scale * vectors @ embedding)"
AGE_FORMULA = (
    "take the row whose spacing is longer_side / input_side * pixel_size_mm, printed with two decimals (there is no "
    "age at other spacings); similarity = coordinates @ (ages_basis @ embedding); the age is the middle one, in days, "
    "of the 15 ages of highest similarity, of equal ones the younger first"
)


@dataclass(frozen=True)
class ClassHead:
    """Unit-length class vectors [C, D] of a benchmark, and class -> prompts in the order of the rows."""

    name: str
    prompts: Mapping[str, Sequence[str]]
    vectors: Tensor

    @property
    def labels(self) -> list[str]:
        """Class names, in the order of the rows."""
        return list(self.prompts)


@dataclass(frozen=True)
class ShippedAges:
    """The age table as it ships: a few coordinates of each age, which cost a fraction of its vectors.

    Only differences between the ages of one spacing decide an age, so each spacing's mean is left out. Spacings are not
    thinned: a text tower reads digits, and between 0.99 and 1.00 mm an interpolated age was up to 27 days off.

    Attributes:
        templates: The prompts' templates.
        spacings: S printed spacings.
        coordinates: [S, 175, R], float16.
        basis: Orthonormal [R, D], float32.
        check: ``heads`` compared with the full float32 table, ``days_off_max`` and ``share_within_2_days``.
    """

    templates: Sequence[str]
    spacings: tuple[str, ...]
    coordinates: Tensor
    basis: Tensor
    check: Mapping[str, float]

    def table(self) -> AgeTable:
        """Return what an app computes with: vectors [S, 175, D] up to a constant of each spacing."""
        return AgeTable(self.spacings, self.coordinates.float() @ self.basis)

    def only(self, spacings: Iterable[str]) -> ShippedAges:
        """Return the head with only the rows of these printed spacings."""
        chosen = tuple(sorted(set(spacings), key=float))
        rows = [self.spacings.index(spacing) for spacing in chosen]
        return replace(self, spacings=chosen, coordinates=self.coordinates[rows])


def ship(
    table: AgeTable, templates: Sequence[str], embeddings: Tensor, spacings: Sequence[str]
) -> ShippedAges:
    """Shrink an age table to the fewest coordinates with which the ages of almost all heads stay.

    Args:
        table: The full table.
        templates: The prompts' templates.
        embeddings: Evaluation heads by the trained model, [N, D]; below `FEWEST` all D coordinates are kept.
        spacings: The N printed spacings of their inputs.
    """
    centred = (table.vectors - table.vectors.mean(dim=1, keepdim=True)).double()
    flat = centred.reshape(-1, centred.shape[-1])
    basis = torch.linalg.eigh(flat.T @ flat).eigenvectors.flip(1).T  # by falling share of the variance
    exact = predicted_age_days(table.similarity(embeddings, spacings)) if len(embeddings) else None
    ranks = [rank for rank in RANKS if rank < len(basis)] if len(embeddings) >= FEWEST else []
    for rank in (*ranks, len(basis)):
        part = basis[:rank]
        coordinates = (centred @ part.T).half()
        found = ShippedAges(templates, table.spacings, coordinates, part.float().contiguous(), {})
        if exact is None:
            break
        off = (predicted_age_days(found.table().similarity(embeddings, spacings)) - exact).abs()
        within = float((off <= DAYS).double().mean())
        check = {"heads": len(off), "days_off_max": int(off.max()), f"share_within_{DAYS}_days": within}
        found = replace(found, check=check)
        if within >= SHARE_WITHIN:
            break
    return found


def grid(spacings: Iterable[str]) -> set[str]:
    """Return every printed spacing from the smallest to the largest; of a very wide range, the given ones alone."""
    given = set(spacings)
    hundredths = [round(100 * float(spacing)) for spacing in given]
    if not given:
        return given
    low, high = min(hundredths), max(hundredths)
    if high - low >= GRID_ROWS:
        print(
            f"export: spacings from {low / 100:.2f} to {high / 100:.2f} mm: the age table has only the corpus's own "
            f"{len(given)}, since all in steps of 0.01 mm are more than {GRID_ROWS}; frames of others have no age "
            "(--spacings=... adds some)"
        )
        return given
    return {f"{number / 100:.2f}" for number in range(min(hundredths), max(hundredths) + 1)}


@torch.no_grad()
def build_heads(
    model: DualEncoder, protocol: Protocol, spacings: set[str], cache: Path | None = None
) -> tuple[dict[str, ClassHead], AgeTable | None]:
    """Embed all prompts: a head for each classification benchmark, and the age table (None without any spacing).

    With a full-size text tower the ages take minutes to an hour; a progress bar shows the time left, and `cache` keeps
    them for the next export of the same weights and prompts.

    Raises:
        ValueError: The prompt file lacks the prompts of a benchmark.
    """
    heads = {
        one.name: ClassHead(one.name, prompts := protocol.prompts_of(one), class_embeddings(model, prompts))
        for one in BENCHMARKS.values()
        if one.kind == "classification"
    }
    if not spacings:
        return heads, None
    with show_progress("ages", " prompts") as progress:
        return heads, stored_age_embeddings(cache, model, protocol.biometry, spacings, progress)


def describe_heads(heads: Mapping[str, ClassHead], ages: ShippedAges | None) -> dict[str, dict[str, Any]]:
    """Return the description of every head, for heads.safetensors and the manifest: labels, scale, formula, prompts."""
    descriptions: dict[str, dict[str, Any]] = {
        name: {
            "kind": "classes",
            "labels": head.labels,
            "cosine_scale": COSINE_SCALE,
            "use": CLASS_FORMULA,
            "prompts": {label: list(texts) for label, texts in head.prompts.items()},
        }
        for name, head in heads.items()
    }
    if ages is not None:
        descriptions[AGES] = {
            "kind": "ages",
            "spacings_mm_per_px": list(ages.spacings),
            "ages_days": [AGES_DAYS[0], AGES_DAYS[-1]],
            "cosine_scale": COSINE_SCALE,
            "basis": BASIS,
            "use": AGE_FORMULA,
            "checked_against_full_table": dict(ages.check),
            "prompts": list(ages.templates),
        }
    return descriptions


def write_heads(
    path: Path, heads: Mapping[str, ClassHead], ages: ShippedAges | None, ties: Mapping[str, str]
) -> None:
    """Write class vectors as float32 and ages as float16, tied to their student (`export.graphs.contract.ties_of`)."""
    tensors = {name: head.vectors.numpy() for name, head in heads.items()}
    if ages is not None:
        tensors |= {AGES: ages.coordinates.numpy(), BASIS: ages.basis.numpy()}
    texts = {name: json.dumps(one, ensure_ascii=False) for name, one in describe_heads(heads, ages).items()}
    tensors = {name: np.ascontiguousarray(vectors) for name, vectors in tensors.items()}
    save_file(tensors, path, metadata={**ties, **texts})
