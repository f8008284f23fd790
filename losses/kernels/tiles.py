"""SRKD on CUDA: the terms and gradients of `losses.kernels.fused`, by two Triton kernels and torch's matrix products.

torch computes the student's logits S and the teacher's T, and multiplies the gradient with the embeddings, in the
precision of ``torch.set_float32_matmul_precision``. Each kernel reads every tile of S and T once. `sums` reduces the
rows and columns of a tile to the five sums of `_merged`; `gradient` overwrites S with the gradient.

Every row and column of a tile has its own maximum, so large logits lose no precision. Nothing is read back to the CPU,
so the step needs no synchronisation. There are no atomic operations, so results are the same in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batch import JointBatch, gather_rows, world_size
from .fused import Problem, terms_of

# Rows, columns and warps of a tile: the fastest of nine on an H100. At batch 16,384 `sums` takes 1.2 ms (64 x 64 in
# 8 warps: 2.5 ms); reading both matrices takes 0.7 ms.
TALL, WIDE, WARPS = 64, 32, 4
BLOCK_ELEMENTS = 2**27
"""Largest block of rows, in numbers (512 MiB in float32). Half of it was 6 % slower on an H100."""
LOW = -1e30  # a finite "no maximum": its exponential is 0, and differences of two are not NaN


def runs_on(x: Tensor) -> bool:
    """Return whether this form can compute on the device of `x`: a card that Triton supports, with Triton installed."""
    return (
        x.is_cuda
        and find_spec("triton") is not None
        and torch.cuda.get_device_capability(x.device) >= (8, 0)  # older ones use `losses.kernels.fused`
    )


class TiledProblem(Problem):
    """Inputs of both passes, with logit scales as tensors, and large blocks of rows."""

    @staticmethod
    def read(scale: Tensor) -> Any:
        return scale.detach()  # its number would be waited for

    def height(self) -> int:
        b, B = len(self.image), len(self.all_text)
        return b if self.keep else min(b, max(128, BLOCK_ELEMENTS // B))

    def logits(self, rows: slice, e: Tensor, f: Tensor) -> None:
        """Write the logits of `rows` [R, B] into `e` (student) and `f` (teacher)."""
        torch.mm(self.image[rows] * self.scale, self.all_text.T, out=e)
        torch.mm(self.teacher_image[rows] * self.teacher_scale, self.teacher_all_text.T, out=f)


class Softmaxes(NamedTuple):
    """Statistics of the softmaxes over n rows and columns, each [n].

    Attributes:
        own_s: The student's logit of the matched pair.
        other_s: Log-sum-exp of the student's logits of the mismatched pairs.
        all_s: Log-sum-exp of all of them.
        all_t: Log-sum-exp of all the teacher's.
        p_own: The teacher's probability of the matched pair.
        p_other: Its probability of all others, accurate where it is near 0.
        expected_s: Sum over mismatched pairs of the teacher's probability times the student's logit.
    """

    own_s: Tensor
    other_s: Tensor
    all_s: Tensor
    all_t: Tensor
    p_own: Tensor
    p_other: Tensor
    expected_s: Tensor

    @classmethod
    def of(cls, sums: Tensor, own: Tensor) -> Softmaxes:
        """Compute them from the sums of `_merged` [5, n] and the logits of the matched pairs of both models [2, n]."""
        low_s, e, low_t, f, fs = sums
        own_s, own_t = own
        other_s, other_t = low_s + e.log(), low_t + f.log()
        all_t = torch.logaddexp(other_t, own_t)
        return cls(
            own_s=own_s,
            other_s=other_s,
            all_s=torch.logaddexp(other_s, own_s),
            all_t=all_t,
            p_own=torch.sigmoid(own_t - other_t),
            p_other=torch.sigmoid(other_t - own_t),
            expected_s=(low_t - all_t).exp() * fs,
        )

    def values(self) -> Tensor:
        """Return each row's and column's part of the three terms [3, n]."""
        surprise = torch.logaddexp(self.other_s - self.own_s, torch.zeros_like(self.own_s))  # -log q_ii
        return torch.stack((surprise, self.p_own * surprise, self.p_other * self.all_s - self.expected_s))

    def factors(self, upstream: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the factor of the softmax in the gradient, and the gradient of the matched pairs; each [n]."""
        contrastive, diagonal, off_diagonal = upstream
        attraction = contrastive + diagonal * self.p_own
        imitation = off_diagonal * self.p_other
        q_own, q_other = torch.sigmoid(self.own_s - self.other_s), torch.sigmoid(self.other_s - self.own_s)
        return attraction + imitation, imitation * q_own - attraction * q_other


@dataclass
class TiledPass:
    """State between the forward and the backward pass, see `losses.kernels.fused.Terms`."""

    problem: TiledProblem
    softmaxes: Softmaxes  # of the b rows, then of the B columns
    kept: list[Tensor]

    def values(self) -> tuple[Tensor, ...]:
        """Return the terms ``contrastive``, ``diagonal`` and ``off_diagonal`` of this process's pairs."""
        b, first = len(self.problem.image), self.problem.first_row
        each = self.softmaxes.values()
        return ((each[:, :b] + each[:, b + first : 2 * b + first]).mean(dim=1) / 2).unbind()

    def gradients(self, upstream: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients in image [b, D], all texts [B, D] and the logit scale; empties `kept`."""
        problem = self.problem
        b, first = len(problem.image), problem.first_row
        *_, off_diagonal = scaled = (torch.stack(upstream) / (2 * b)).unbind()
        factor, own = self.softmaxes.factors(scaled)
        vectors = torch.stack((factor, self.softmaxes.all_s, self.softmaxes.all_t, own))
        vectors[3, :b] += own[b + first : 2 * b + first]
        rows, columns = vectors[:, :b], vectors[:3, b:].contiguous()
        recompute = not self.kept
        matrices = self.kept.copy() or problem.matrices()
        self.kept.clear()
        image, text = torch.empty_like(problem.image), torch.zeros_like(problem.all_text)
        for block, s, t in problem.blocks(matrices):
            if recompute:
                problem.logits(block, s, t)
            _run_gradient(s, t, rows[:, block].contiguous(), columns, off_diagonal, first + block.start)
            torch.mm(s, problem.all_text, out=image[block])
            text.addmm_(s.T, problem.image[block])
        return problem.scaled(image, text)


def tiled_terms(
    student: JointBatch, teacher: JointBatch, temperature: float, keep: bool
) -> dict[str, Tensor]:
    """Return the terms as `losses.kernels.fused.fused_terms` does, for logits of any range."""
    problem = TiledProblem.of(student, teacher, temperature, keep)
    with torch.no_grad():
        state = _forward(problem)
    return terms_of(student, state)


def _forward(problem: TiledProblem) -> TiledPass:
    b = len(problem.image)
    matrices = problem.matrices()
    rows, own = problem.empty(5, b), problem.empty(2, b)
    columns = None
    for block, s, t in problem.blocks(matrices):
        problem.logits(block, s, t)
        own[0, block], own[1, block] = problem.own(block, s), problem.own(block, t)
        of_rows, of_columns = _run_sums(s, t, problem.first_row + block.start)
        rows[:, block] = _merged(of_rows)
        found = _merged(of_columns)
        columns = found if columns is None else _merged(torch.stack((columns, found), dim=1))
    assert columns is not None
    if world_size() > 1:
        columns = _merged(gather_rows(columns[None]).transpose(0, 1))
    own = torch.cat((own, gather_rows(own.T).T), dim=1)
    softmaxes = Softmaxes.of(torch.cat((rows, columns), dim=1), own)
    return TiledPass(problem, softmaxes, matrices if problem.keep else [])


def _merged(parts: Tensor) -> Tensor:
    """Merge the five sums of n parts, [5, n, k] to [5, k], over the mismatched pairs of k rows or columns.

    They are max S, sum exp(S - max S), max T, sum exp(T - max T), and sum exp(T - max T) S.
    """
    low_s, e, low_t, f, fs = parts
    top_s, top_t = low_s.amax(dim=0), low_t.amax(dim=0)
    by_s, by_t = (low_s - top_s).exp(), (low_t - top_t).exp()
    return torch.stack((top_s, (e * by_s).sum(0), top_t, (f * by_t).sum(0), (fs * by_t).sum(0)))


def _run_sums(s: Tensor, t: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Return the five sums of `_merged` of each tile: of rows [5, column tiles, R], of columns [5, row tiles, B]."""
    R, B = s.shape
    down, across = _grid(s)
    of_rows, of_columns = s.new_empty(5, across, R), s.new_empty(5, down, B)
    kernel = _kernels().sums[down, across]
    with torch.cuda.device_of(s):  # else Triton launches on the current device
        kernel(s, t, of_rows, of_columns, R, B, offset, LOW=LOW, TALL=TALL, WIDE=WIDE, num_warps=WARPS)
    return of_rows, of_columns


def _run_gradient(
    s: Tensor, t: Tensor, rows: Tensor, columns: Tensor, off_diagonal: Tensor, offset: int
) -> None:
    """Write the gradient over `s` [R, B].

    Args:
        s: The student's logits.
        t: The teacher's.
        rows: Factor of the student's softmax, both log-sum-exps, and the matched pairs' gradient [4, R].
        columns: The first three for columns [3, B].
        off_diagonal: Upstream gradient of the off-diagonal term, a scalar.
        offset: Row i matches column ``offset + i``.
    """
    kernel = _kernels().gradient[_grid(s)]
    with torch.cuda.device_of(s):
        kernel(s, t, rows, columns, off_diagonal, *s.shape, offset, TALL=TALL, WIDE=WIDE, num_warps=WARPS)


def _grid(s: Tensor) -> tuple[int, int]:
    return -(-len(s) // TALL), -(-s.shape[1] // WIDE)


def _kernels() -> Any:
    from . import triton_kernels  # needs Triton, which torch brings for CUDA on Linux only

    return triton_kernels
