"""Fused SRKD: the three terms and their gradient from two exponential matrices, exact.

With S = the student's logits and T = the teacher's divided by the temperature, every softmax of SRKD, over rows and
over columns, is a quotient of the SAME two matrices ``E = exp(S - shift)`` and ``F = exp(T - shift')`` and their row
and column sums. Four log-softmaxes become two exponentials, and the gradient of any combination
``g_c L_contrastive + g_d L_diagonal + g_o L_off_diagonal`` in S is

    G_ij = E_ij (a_i + c_j) + F_ij (u_i + v_j)  for i != j,    G_ii = d_i

with vectors a, c, u, v, d made of those sums. That leaves two matrix products for the logits and two for the gradient,
the minimum. Everything between the products works on blocks of rows and in place: G is written over E. E and F are
kept for the backward pass (``keep``: 2 B x B numbers) or recomputed there (none, for two more products). A second
backward pass recomputes what the first has overwritten, with the same operations on the same shapes: its results are
bit-identical. There are no second derivatives; the plain form has them.

Sums exclude the matched pairs, which are stored separately: with well-matched pairs q_ii is near 1, and 1 - q_ii
computed from a sum that includes it would be rounding error. Losses of well-matched pairs are therefore more exact
than in the plain form.

A common shift loses precision when a row lies far below the largest possible logit; only then `fused_terms` returns
None and the plain form (`losses/selective.py`) is used.

Under torch.distributed a process holds its b rows of E and F against all B columns; column sums are added over ranks,
so both directions come from one matrix. Every rank must start its backward pass with the same upstream gradient, as
in DDP training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ..batch import JointBatch, all_agree, gather_rows, sum_over_ranks

BLOCK_ELEMENTS = 2**21
"""Numbers of a block of rows (8 MiB in float32).

Fewer and larger parallel loops: a thread that the system interrupts holds up the others at the end of every loop, so
many small ones are slow on a busy machine.
"""


@dataclass(frozen=True)
class Problem:
    """Detached inputs of both passes, and their division into blocks of rows.

    Attributes:
        image: The student's image embeddings [b, D].
        all_text: The student's text embeddings [B, D].
        scale: The student's logit scale, a float; a tensor in `losses.kernels.tiles`, which never waits for the GPU.
        teacher_image: The teacher's image embeddings [b, D'].
        teacher_all_text: The teacher's text embeddings [B, D'].
        teacher_scale: The teacher's logit scale, divided by the temperature.
        first_row: Row i here matches column ``first_row + i``.
        keep: Whether E and F are kept for the backward pass.
    """

    image: Tensor
    all_text: Tensor
    scale: Any
    teacher_image: Tensor
    teacher_all_text: Tensor
    teacher_scale: Any
    first_row: int
    keep: bool

    @staticmethod
    def read(scale: Tensor) -> Any:
        """Return a logit scale as the matrix products take it."""
        return scale.item()

    @classmethod
    def of(cls, student: JointBatch, teacher: JointBatch, temperature: float, keep: bool) -> Self:
        """Make it from both models' embeddings; nothing is kept where no gradient is wanted."""
        return cls(
            image=student.local.image.detach(),
            all_text=student.all_text.detach(),
            scale=cls.read(student.local.logit_scale),
            teacher_image=teacher.local.image,
            teacher_all_text=teacher.all_text,
            teacher_scale=cls.read(teacher.local.logit_scale) / temperature,
            first_row=student.first_row,
            keep=keep and torch.is_grad_enabled(),
        )

    def height(self) -> int:
        """Return the number of rows of a block; at most half of all, or a quarter if E and F are not kept."""
        b, B = len(self.image), len(self.all_text)
        return min(-(-b // (2 if self.keep else 4)), max(128, BLOCK_ELEMENTS // B))

    def empty(self, *shape: int) -> Tensor:
        """Return an uninitialised tensor of the embeddings' dtype and device."""
        return torch.empty(*shape, dtype=self.image.dtype, device=self.image.device)

    def matrices(self) -> list[Tensor]:
        """Return uninitialised E and F: [b, B], or of one block's rows if they are not kept."""
        rows = len(self.image) if self.keep else self.height()
        return [self.empty(rows, len(self.all_text)) for _ in range(2)]

    def blocks(self, matrices: list[Tensor]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield the rows of every block and their part of `matrices`, which the next block overwrites if not kept."""
        for start in range(0, len(self.image), self.height()):
            rows = slice(start, min(start + self.height(), len(self.image)))
            place = rows if self.keep else slice(0, rows.stop - rows.start)
            yield rows, matrices[0][place], matrices[1][place]

    def logits(self, rows: slice, e: Tensor, f: Tensor) -> None:
        """Write the shifted logits of `rows` [R, B] into `e` and `f`; cosines are at most 1, so exp cannot overflow."""
        largest = 0.7 * math.log(torch.finfo(e.dtype).max)  # leaves room for sums of B numbers
        for out, image, text, scale in (
            (e, self.image, self.all_text, self.scale),
            (f, self.teacher_image, self.teacher_all_text, self.teacher_scale),
        ):
            torch.addmm(out, image[rows], text.T, beta=0, alpha=scale, out=out)
            if scale > largest:
                out.sub_(scale - largest)

    def own(self, rows: slice, matrix: Tensor) -> Tensor:
        """Return a view of the matched pairs of a block [R, B], [R]."""
        return matrix.diagonal(offset=self.first_row + rows.start)

    def scaled(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients in image, all texts and the logit scale from those without its factor.

        It enters last, so that its own gradient needs no division by it: it may be 0.
        """
        scale = torch.dot(self.image.flatten(), image.flatten())
        return image.mul_(self.scale), text.mul_(self.scale), scale


def fused_terms(
    student: JointBatch, teacher: JointBatch, temperature: float, keep: bool
) -> dict[str, Tensor] | None:
    """Return ``contrastive``, ``diagonal`` and ``off_diagonal`` as `losses.SRKDLoss` defines them.

    Args:
        student: Embeddings of the student.
        teacher: Embeddings of the teacher, without gradient.
        temperature: Divides the teacher's logits.
        keep: Keep 2 B x B numbers for the backward pass; else recompute them.

    Returns:
        This process's unweighted terms, or None if the range of the logits is too large for this form.
    """
    problem = Problem.of(student, teacher, temperature, keep)
    with torch.no_grad():
        state = FusedPass(problem, *_sums(problem))
    # Numbers flushed to zero are below `tiny`; B of them must not matter beside any sum.
    kind = torch.finfo(state.own_s.dtype)
    positive = torch.cat([way[:2].add(way[3:]).flatten() for way in (state.rows, state.columns)])
    precise = positive.min() >= kind.tiny / kind.eps * len(problem.all_text)
    finite = torch.isfinite(torch.cat((positive, state.rows[2], state.columns[2]))).all()
    return terms_of(student, state) if all_agree(bool(precise & finite)) else None


def _sums(problem: Problem) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Compute the sums over rows [5, b] and columns [5, B], the matched pairs' S [b], and E and F if they are kept.

    The five are the sums of E, F and F * S over the mismatched pairs, and E and F of the matched pair.
    """
    b, B = len(problem.image), len(problem.all_text)
    matrices, product = problem.matrices(), problem.empty(problem.height(), B)
    sums, own_s = problem.empty(5, b), problem.empty(b)
    columns = torch.zeros(3, B, dtype=sums.dtype, device=sums.device)
    ones = torch.ones_like(columns[0])
    for rows, e, f in problem.blocks(matrices):
        fs = product[: len(e)]
        problem.logits(rows, e, f)
        own_s[rows] = problem.own(rows, e)
        torch.mul(e, f.exp_(), out=fs)
        e.exp_()
        sums[3, rows], sums[4, rows] = problem.own(rows, e), problem.own(rows, f)
        for matrix, row, column in zip((e, f, fs), sums, columns, strict=False):
            problem.own(rows, matrix).zero_()
            torch.mv(matrix, ones, out=row[rows])
            column.addmv_(matrix.T, ones[: len(e)])
    sum_over_ranks(columns)
    joint = torch.cat((columns, gather_rows(sums[3:].T).T))
    return sums, joint, own_s, matrices if problem.keep else []


def _factors(sums: Tensor, k: float, upstream: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return one direction's factors of E and F in the gradient, and its summand at the matched pairs."""
    contrastive, diagonal, off_diagonal = upstream
    e, f, _, own_e, own_f = sums
    all_e, all_f = e + own_e, f + own_f
    attraction = contrastive + diagonal * own_f / all_f
    imitation = off_diagonal * f / all_f
    own = imitation * (own_e / all_e) - attraction * (e / all_e)
    return k * (attraction + imitation) / all_e, -k * off_diagonal / all_f, k * own


@dataclass
class FusedPass:
    """State between the forward and the backward pass.

    Attributes:
        problem: Inputs of both passes.
        rows: Sums over rows [5, b], see `_sums`.
        columns: Sums over columns [5, B].
        own_s: The student's logits of the matched pairs [b].
        kept: E and F, or nothing: they are recomputed.
    """

    problem: Problem
    rows: Tensor
    columns: Tensor
    own_s: Tensor
    kept: list[Tensor]

    def values(self) -> tuple[Tensor, ...]:
        b, first = len(self.problem.image), self.problem.first_row
        terms = []
        for e, f, fs, own_e, own_f in (self.rows, self.columns[:, first : first + b]):
            log_sum, all_f = (e + own_e).log(), f + own_f
            # -log q_ii; for well-matched pairs it is far smaller than the logarithms that it is the difference of.
            surprise = torch.where(e <= own_e, torch.log1p(e / own_e), log_sum - self.own_s)
            summands = torch.stack((surprise, own_f / all_f * surprise, (f * log_sum - fs) / all_f))
            terms.append(summands.mean(dim=1))
        return ((terms[0] + terms[1]) / 2).unbind()

    def gradients(self, upstream: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients in image [b, D], all texts [B, D] and the logit scale; empties `kept`."""
        problem, b, first = self.problem, len(self.problem.image), self.problem.first_row
        a, u, own_rows = _factors(self.rows, 1 / (2 * b), upstream)
        c, v, own_columns = _factors(self.columns, 1 / (2 * b), upstream)
        d = own_rows + own_columns[first : first + b]
        recompute = not self.kept
        matrices = self.kept.copy() or problem.matrices()
        self.kept.clear()
        weights = problem.empty(problem.height(), len(c))
        image, text = problem.image, problem.all_text
        if not problem.keep:
            image, text = torch.empty_like(image), torch.zeros_like(text)
        for block, e, f in problem.blocks(matrices):
            if recompute:
                problem.logits(block, e, f)
                e.exp_()
                f.exp_()
            weight = weights[: len(e)]
            e.mul_(torch.add(a[block, None], c, out=weight))
            e.addcmul_(f, torch.add(u[block, None], v, out=weight))
            problem.own(block, e).copy_(d[block])
            if not problem.keep:
                torch.mm(e, problem.all_text, out=image[block])
                text.addmm_(e.T, problem.image[block])
        if problem.keep:
            gradient = matrices[0]
            # Before the results are allocated: two matrices at most at any time.
            del e, f, matrices, weights, weight
            image, text = gradient @ problem.all_text, gradient.T @ problem.image
        return problem.scaled(image, text)


class Terms(torch.autograd.Function):
    """Autograd function of a pass's ``values`` and ``gradients``."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, all_text: Tensor, scale: Tensor, state: Any) -> tuple[Tensor, ...]:
        # Its matrices are not in save_for_backward: a backward pass overwrites them, and a second one recomputes them.
        ctx.state = state
        ctx.save_for_backward(image, all_text, scale)
        values: tuple[Tensor, ...] = state.values()
        return values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        if torch.is_grad_enabled():  # create_graph
            raise ValueError("SRKDLoss has second derivatives with kernel=plain only")
        _ = ctx.saved_tensors  # an error if one was changed in place, as for PyTorch's own functions
        with torch.autocast(upstream[0].device.type, enabled=False):  # a caller may be in one
            return *ctx.state.gradients(upstream), None


def terms_of(student: JointBatch, state: Any) -> dict[str, Tensor]:
    """Return the terms of a pass by name, differentiable in the student's embeddings and logit scale."""
    terms = Terms.apply(student.local.image, student.all_text, student.local.logit_scale, state)
    return dict(zip(("contrastive", "diagonal", "off_diagonal"), terms, strict=True))
