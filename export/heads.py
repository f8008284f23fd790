"""Zero-shot heads: what an app compares an embedding with, so that no text tower has to ship.

A head is a JSON file that says what the numbers are, beside a file of little-endian floats that Swift, Kotlin
and JavaScript read as they are. Both are tied to their prompts by hash.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from datamodules.captions import SPACING
from datamodules.protocol import Protocol
from export.provenance import sha256
from metrics import AGES_DAYS
from metrics.names import PLANES, SUBPLANES
from models import DualEncoder
from models.zero_shot import COSINE_SCALE, AgeTable, age_embeddings, class_embeddings

QUIET_SECONDS = 5.0  # embedding that is over sooner shows no bar
LOG_SECONDS = 30.0  # between two lines of a log file


@dataclass(frozen=True)
class ClassHead:
    """Class vectors of one benchmark.

    Attributes:
        name: ``planes`` or ``subplanes``.
        prompts: Class -> prompts, in the order of the rows.
        vectors: Unit-length class vectors [C, D], float32.
    """

    name: str
    prompts: Mapping[str, Sequence[str]]
    vectors: Tensor

    @property
    def labels(self) -> list[str]:
        """Class names, in the order of the rows."""
        return list(self.prompts)


@dataclass(frozen=True)
class AgeHead:
    """Vectors of the 175 gestational ages at every printed pixel spacing.

    Attributes:
        templates: The prompts' templates.
        table: Their vectors [S, 175, D].
    """

    templates: Sequence[str]
    table: AgeTable

    @property
    def prints_spacing(self) -> bool:
        """Whether any template prints the pixel spacing; else all rows of the table are one."""
        return any(SPACING in template for template in self.templates)

    def rows_of(self, spacings: Sequence[str]) -> list[str]:
        """Return the table's row for each printed spacing; nothing when one of them has no row."""
        if not self.prints_spacing:
            return [self.table.spacings[0]] * len(spacings)
        return list(spacings) if set(spacings) <= set(self.table.spacings) else []

    def only(self, spacings: Iterable[str]) -> AgeHead:
        """Return the head with the rows of these printed spacings alone; one row where templates print none."""
        chosen = tuple(sorted(set(spacings)))[: None if self.prints_spacing else 1]
        rows = [self.table.spacings.index(row) for row in self.rows_of(chosen)]
        return AgeHead(self.templates, AgeTable(chosen, self.table.vectors[rows]))

    def rounded(self) -> AgeHead:
        """Return the head as an app reads it: stored in float16."""
        return AgeHead(self.templates, AgeTable(self.table.spacings, self.table.vectors.half().float()))


@torch.no_grad()
def build_class_head(model: DualEncoder, name: str, prompts: Mapping[str, Sequence[str]]) -> ClassHead:
    """Embed the prompts of a benchmark."""
    return ClassHead(name, prompts, class_embeddings(model, prompts))


@torch.no_grad()
def build_age_head(model: DualEncoder, templates: Sequence[str], spacings: Sequence[str]) -> AgeHead:
    """Embed 175 ages at each printed spacing (``"0.42"``, millimetres per pixel of the model's input).

    With a full-size text tower this takes minutes to an hour; a bar shows the time left.
    """
    if not any(SPACING in template for template in templates):
        spacings = spacings[:1]  # all the same
    interval = 0.2 if sys.stderr.isatty() else LOG_SECONDS
    with tqdm(desc="ages", unit="prompt", delay=QUIET_SECONDS, mininterval=interval, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return AgeHead(templates, age_embeddings(model, templates, spacings, progress=show))


def build_heads(
    model: DualEncoder, protocol: Protocol, spacings: Iterable[str]
) -> tuple[dict[str, ClassHead], AgeHead | None]:
    """Embed a protocol: the heads of both plane benchmarks, and the ages, None without any spacing."""
    heads = {
        PLANES: build_class_head(model, PLANES, protocol.planes),
        SUBPLANES: build_class_head(model, SUBPLANES, protocol.subplanes),
    }
    distinct = sorted(set(spacings))
    return heads, build_age_head(model, protocol.biometry, distinct) if distinct else None


def prompts_digest(prompts: Any) -> str:
    """Return the SHA-256 of prompts; it changes with any word and with the order of classes."""
    return hashlib.sha256(json.dumps(prompts, ensure_ascii=False).encode()).hexdigest()


def write_class_head(head: ClassHead, folder: Path, ties: Mapping[str, str]) -> Path:
    """Write ``<name>.json`` and ``<name>.f32``, tied to a student, and return the JSON's path."""
    prompts = {label: list(texts) for label, texts in head.prompts.items()}
    return _write(
        folder / f"{head.name}.json",
        head.vectors.numpy().astype("<f4"),
        {
            "kind": "classes",
            "labels": head.labels,
            "cosine_scale": COSINE_SCALE,
            "use": "probabilities = softmax(cosine_scale * vectors @ embedding)",
            "prompts": prompts,
            "prompts_sha256": prompts_digest(prompts),
            **ties,
        },
    )


def write_age_head(head: AgeHead, folder: Path, ties: Mapping[str, str]) -> Path:
    """Write ``ages.json`` and ``ages.f16``, tied to a student, and return the JSON's path."""
    templates = list(head.templates)
    return _write(
        folder / "ages.json",
        head.table.vectors.numpy().astype("<f2"),
        {
            "kind": "ages",
            "spacings_mm_per_px": list(head.table.spacings),
            "ages_days": [AGES_DAYS[0], AGES_DAYS[-1]],
            "cosine_scale": COSINE_SCALE,
            "use": "take the rows of the spacing nearest to longer_side / input_side * pixel_size_mm; the "
            "age is the middle one, in days, of the 15 ages with the highest vectors @ embedding",
            "prompts": templates,
            "prompts_sha256": prompts_digest(templates),
            **ties,
        },
    )


def _write(path: Path, values: NDArray[Any], description: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    binary = path.with_suffix(f".f{8 * values.itemsize}")
    binary.write_bytes(np.ascontiguousarray(values).tobytes())
    storage = {
        "file": binary.name,
        "shape": list(values.shape),
        "dtype": "float32" if values.itemsize == 4 else "float16",
        "byte_order": "little",
        "sha256": sha256(binary),
    }
    path.write_text(
        json.dumps({**description, **storage}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return path


def read_head(path: Path) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Read a head back.

    Returns:
        Its description, and its vectors [C, D] or [S, 175, D] as float32.

    Raises:
        ValueError: The numbers do not match their hash, or the prompts theirs.
    """
    head = json.loads(path.read_text(encoding="utf-8"))
    binary = path.with_name(head["file"])
    if sha256(binary) != head["sha256"]:
        raise ValueError(f"{binary}: its hash is not the one in {path.name}; export again")
    if prompts_digest(head["prompts"]) != head["prompts_sha256"]:
        raise ValueError(
            f"{path}: the prompts were edited after the vectors were made from them; export again"
        )
    dtype = "<f4" if head["dtype"] == "float32" else "<f2"
    vectors = np.frombuffer(binary.read_bytes(), dtype=dtype).reshape(head["shape"])
    return head, vectors.astype(np.float32)
