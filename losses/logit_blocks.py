"""The student's and the teacher's logits block by block, as the fused loss reads them.

A block of rows is as tall as the matrix products want it; a strip is the part of a block that is worked on at
once between two products.

Shape letters: b pairs of this process, B pairs of all processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**21
"""Numbers in a block of rows that is computed again (8 MiB in float32): tall enough for the matrix products."""

STRIP_ELEMENTS = {"cpu": 2**18}
"""Numbers that are worked on at once between two products, by device; those of a block on all others.

A megabyte of float32 stays in a core's cache; a GPU wants fewer and larger kernels.
"""


@dataclass(frozen=True)
class LogitBlocks:
    """What both passes read, detached, and how their rows are divided.

    Attributes:
        image: The student's image embeddings [b, D].
        all_text: The student's text embeddings [B, D].
        scale: The student's logit scale.
        teacher_image: The teacher's image embeddings [b, D'].
        teacher_all_text: The teacher's text embeddings [B, D'].
        teacher_scale: The teacher's logit scale, divided by the temperature.
        first_row: Row i here matches column ``first_row + i``.
        keep: The exponentials are kept for the backward pass: all rows are one block.
    """

    image: Tensor
    all_text: Tensor
    scale: float
    teacher_image: Tensor
    teacher_all_text: Tensor
    teacher_scale: float
    first_row: int
    keep: bool

    @property
    def shift(self) -> float:
        """Subtracted from the student's logits; cosines are at most 1, so E cannot overflow."""
        return max(0.0, self.scale - self.limit)

    @property
    def teacher_shift(self) -> float:
        """Subtracted from the teacher's logits."""
        return max(0.0, self.teacher_scale - self.limit)

    @property
    def limit(self) -> float:
        """Largest exponent allowed: leaves room for sums of B numbers."""
        return 0.7 * math.log(torch.finfo(self.image.dtype).max)

    def empty(self, *shape: int) -> Tensor:
        """Return a tensor of the embeddings' kind whose numbers are not set."""
        return torch.empty(*shape, dtype=self.image.dtype, device=self.image.device)

    def blocks(self) -> list[slice]:
        """Slices over the rows of this process: all at once if kept, else at most half to bound the memory."""
        b, B = len(self.image), len(self.all_text)
        if self.keep:
            return [slice(0, b)]
        size = max(1, min((b + 1) // 2, max(128, BLOCK_ELEMENTS // B)))
        return [slice(start, min(start + size, b)) for start in range(0, b, size)]

    def strips(self, block: slice) -> list[slice]:
        """Slices over the rows of `block` to work on between two products, the tallest first."""
        elements = STRIP_ELEMENTS.get(self.image.device.type, BLOCK_ELEMENTS)
        size = max(1, elements // len(self.all_text))
        return [slice(i, min(i + size, block.stop)) for i in range(block.start, block.stop, size)]

    def logits(self, rows: slice, s: Tensor, t: Tensor) -> None:
        """Write the logits of `rows` [R, B] into `s` and `t`."""
        torch.addmm(s, self.image[rows], self.all_text.T, beta=0, alpha=self.scale, out=s)
        torch.addmm(
            t, self.teacher_image[rows], self.teacher_all_text.T, beta=0, alpha=self.teacher_scale, out=t
        )

    def own(self, rows: slice, matrix: Tensor) -> Tensor:
        """View of the entries of a block [R, B] that belong to matched pairs, [R]."""
        return matrix.diagonal(offset=self.first_row + rows.start)


def part_of(matrix: Tensor, block: slice, rows: slice) -> Tensor:
    """View of `rows` in a matrix that begins with the rows of `block`."""
    return matrix[rows.start - block.start : rows.stop - block.start]


def exponentiate(logits: Tensor, shift: float) -> None:
    """Turn logits into the exponentials of what they are above `shift`, in place."""
    if shift:
        logits.sub_(shift)
    logits.exp_()
