"""Zero-shot heads: class vectors and gestational-age vectors made from prompts, so that no text tower has to ship.

They ship in one file, heads.safetensors. Swift, Kotlin, JavaScript and `verify_coreml.py` read it without a library:
8 bytes of little-endian header length, the header as JSON with labels and prompts, the numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor
from tqdm import tqdm

from datamodules.evaluation.protocol import Protocol
from metrics import AGES_DAYS
from metrics.benchmarks import BENCHMARKS
from models import DualEncoder
from models.student.onnx_files import AGES
from models.zero_shot import COSINE_SCALE, AgeTable, age_embeddings, class_embeddings

QUIET_SECONDS = 5.0  # shorter computations show no progress bar
LOG_SECONDS = 30.0  # between two lines of a log file


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
class AgeHead:
    """Vectors [S, 175, D] of the gestational ages at each printed pixel spacing, and the prompts' templates."""

    templates: Sequence[str]
    table: AgeTable

    def only(self, spacings: Iterable[str]) -> AgeHead:
        """Return the head with only the rows of these printed spacings."""
        chosen = tuple(sorted(set(spacings)))
        rows = [self.table.spacings.index(spacing) for spacing in chosen]
        return AgeHead(self.templates, AgeTable(chosen, self.table.vectors[rows]))

    def rounded(self) -> AgeHead:
        """Return the head as it ships: stored in float16."""
        return AgeHead(self.templates, AgeTable(self.table.spacings, self.table.vectors.half().float()))


@torch.no_grad()
def build_heads(
    model: DualEncoder, protocol: Protocol, spacings: set[str]
) -> tuple[dict[str, ClassHead], AgeHead | None]:
    """Embed all prompts: a head for each classification benchmark, and the ages (None without any spacing).

    With a full-size text tower the ages take minutes to an hour; a progress bar shows the time left.

    Raises:
        ValueError: The prompt file lacks the prompts of a benchmark.
    """
    heads = {}
    for benchmark in BENCHMARKS.values():
        if benchmark.kind == "classification":
            prompts = protocol.prompts_of(benchmark)
            heads[benchmark.name] = ClassHead(benchmark.name, prompts, class_embeddings(model, prompts))
    if not spacings:
        return heads, None
    interval = 0.2 if sys.stderr.isatty() else LOG_SECONDS
    with tqdm(desc="ages", unit="prompt", delay=QUIET_SECONDS, mininterval=interval, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return heads, AgeHead(
            protocol.biometry, age_embeddings(model, protocol.biometry, spacings, progress=show)
        )


def write_heads(
    path: Path, heads: Mapping[str, ClassHead], ages: AgeHead | None, ties: Mapping[str, str]
) -> None:
    """Write class vectors as float32 and ages as float16, tied to their student (`export.graphs.contract.ties_of`)."""
    tensors = {name: head.vectors.numpy() for name, head in heads.items()}
    descriptions: dict[str, dict[str, Any]] = {
        name: {
            "kind": "classes",
            "labels": head.labels,
            "cosine_scale": COSINE_SCALE,
            "use": "probabilities = softmax(cosine_scale * vectors @ embedding)",
            "prompts": {label: list(texts) for label, texts in head.prompts.items()},
        }
        for name, head in heads.items()
    }
    if ages is not None:
        tensors[AGES] = ages.table.vectors.half().numpy()
        descriptions[AGES] = {
            "kind": "ages",
            "spacings_mm_per_px": list(ages.table.spacings),
            "ages_days": [AGES_DAYS[0], AGES_DAYS[-1]],
            "cosine_scale": COSINE_SCALE,
            "use": "take the rows of the spacing nearest to longer_side / input_side * pixel_size_mm; the "
            "age is the middle one, in days, of the 15 ages with the highest vectors @ embedding",
            "prompts": list(ages.templates),
        }
    texts = {name: json.dumps(description, ensure_ascii=False) for name, description in descriptions.items()}
    tensors = {name: np.ascontiguousarray(vectors) for name, vectors in tensors.items()}
    save_file(tensors, path, metadata={**ties, **texts})
