"""Zero-shot heads: class vectors and gestational-age vectors made from prompts, so that no text tower has to ship."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.evaluation.protocol import Protocol
from datamodules.pairs.captions import SPACING
from metrics.benchmarks import BENCHMARKS
from models import DualEncoder
from models.zero_shot import AgeTable, age_embeddings, class_embeddings

QUIET_SECONDS = 5.0  # shorter computations show no progress bar
LOG_SECONDS = 30.0  # between two lines of a log file


@dataclass(frozen=True)
class ClassHead:
    """Class vectors of one benchmark.

    Attributes:
        name: Name of the benchmark.
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
    """Vectors of the 175 gestational ages at each printed pixel spacing.

    Attributes:
        templates: The prompts' templates.
        table: Their vectors [S, 175, D].
    """

    templates: Sequence[str]
    table: AgeTable

    @property
    def prints_spacing(self) -> bool:
        """Whether any template prints the pixel spacing; otherwise all rows of the table are equal."""
        return any(SPACING in template for template in self.templates)

    def rows_of(self, spacings: Sequence[str]) -> list[str]:
        """Return the table's row for each printed spacing; an empty list when one of them has no row."""
        if not self.prints_spacing:
            return [self.table.spacings[0]] * len(spacings)
        return list(spacings) if set(spacings) <= set(self.table.spacings) else []

    def only(self, spacings: Iterable[str]) -> AgeHead:
        """Return the head with only the rows of these printed spacings; one row where templates print none."""
        chosen = tuple(sorted(set(spacings)))[: None if self.prints_spacing else 1]
        rows = [self.table.spacings.index(row) for row in self.rows_of(chosen)]
        return AgeHead(self.templates, AgeTable(chosen, self.table.vectors[rows]))

    def rounded(self) -> AgeHead:
        """Return the head as an app reads it: stored in float16."""
        return AgeHead(self.templates, AgeTable(self.table.spacings, self.table.vectors.half().float()))


@torch.no_grad()
def build_age_head(model: DualEncoder, templates: Sequence[str], spacings: Sequence[str]) -> AgeHead:
    """Embed 175 ages at each printed spacing (``"0.42"``, millimetres per pixel of the model's input).

    A full-size text tower takes minutes to an hour; a progress bar shows the time left.
    """
    if not any(SPACING in template for template in templates):
        spacings = spacings[:1]  # all rows are equal
    interval = 0.2 if sys.stderr.isatty() else LOG_SECONDS
    with tqdm(desc="ages", unit="prompt", delay=QUIET_SECONDS, mininterval=interval, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return AgeHead(templates, age_embeddings(model, templates, spacings, progress=show))


@torch.no_grad()
def build_heads(
    model: DualEncoder, protocol: Protocol, spacings: Iterable[str]
) -> tuple[dict[str, ClassHead], AgeHead | None]:
    """Embed all prompts: a head for each classification benchmark, and the ages (None without any spacing)."""
    heads = {}
    for benchmark in BENCHMARKS.values():
        if benchmark.kind == "classification":
            prompts = protocol.classes[benchmark.prompts]
            heads[benchmark.name] = ClassHead(benchmark.name, prompts, class_embeddings(model, prompts))
    distinct = sorted(set(spacings))
    return heads, build_age_head(model, protocol.biometry, distinct) if distinct else None
