"""SRKD's three terms and their gradient in the least matrix work: exact, the one special path of this room.

With S = the student's logits and T = the teacher's divided ones, every softmax that SRKD needs, over rows
and over columns, is a quotient of the SAME two matrices ``E = exp(S - shift)`` and ``F = exp(T - shift')``
and their row and column sums. So the four log-softmaxes shrink to two exponentials, and the gradient of any
combination ``g_c L_contrastive + g_d L_diagonal + g_o L_off_diagonal`` in S is

    G_ij = E_ij (a_i + c_j) + F_ij (u_i + v_j)  for i != j,    G_ii = d_i

with vectors a, c, u, v, d made of those sums, which leaves two matrix products for the logits and two for
the gradient, the least there can be. Between the products all of it runs over strips of rows and in place, so
that no third matrix is ever held: G is written over E. E and F are kept for the backward pass (2 B x B numbers)
or recomputed there in blocks of rows (none, for half as many products more). A second backward pass finds that the
first one has overwritten what was kept, and recomputes it with the same operations: its results are bit-identical.

The sums leave the matched pairs out, whose numbers are kept apart: a student that has learnt its pairs has
q_ii near 1, and 1 - q_ii taken from a sum that q_ii is in would be rounding. So it is the sum of the others,
and the losses of well-matched pairs are more exact than in the plain form.

A common shift loses precision when a row lies far below the largest possible logit; then, and only then,
`fused_terms` gives up and the plain form (`losses/selective.py`) takes over.

Under torch.distributed a process holds its b rows of E and F against all B columns; column sums are added
over ranks, so both directions come from one matrix there, too. This relies on every rank starting its
backward pass with the same upstream gradient, as DDP training does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losses.distributions import diagonal_cross_entropy, matched_cross_entropy, off_diagonal_cross_entropy
from losses.gather import gather_rows, sum_over_ranks, world_size
from losses.joint_batch import JointBatch
from losses.logit_blocks import LogitBlocks, exponentiate, part_of
from losses.pair_sums import BothSums, PairSums


def fused_terms(
    student: JointBatch, teacher: JointBatch, temperature: float, keep: bool
) -> dict[str, Tensor] | None:
    """Return ``contrastive``, ``diagonal`` and ``off_diagonal`` as `losses.SRKDLoss` defines them.

    Args:
        student: Embeddings of the student.
        teacher: Embeddings of the teacher, without gradient.
        temperature: Divides the teacher's logits.
        keep: Keep 2 B x B numbers for the backward pass, or else recompute them there.

    Returns:
        This process's unweighted terms, or None where the logits' range is too large for this form.
    """
    image, all_text, scale = student.local.image, student.all_text, student.local.logit_scale
    problem = LogitBlocks(
        image=image.detach(),
        all_text=all_text.detach(),
        scale=scale.item(),
        teacher_image=teacher.local.image,
        teacher_all_text=teacher.all_text,
        teacher_scale=teacher.local.logit_scale.item() / temperature,
        first_row=student.first_row,
        keep=keep and torch.is_grad_enabled(),
    )
    with torch.no_grad():
        sums, kept = _sweep(problem)
    if not sums.are_precise():
        return None
    contrastive, diagonal, off_diagonal = _FusedTerms.apply(image, all_text, scale, problem, sums, kept)
    return {"contrastive": contrastive, "diagonal": diagonal, "off_diagonal": off_diagonal}


def _sweep(problem: LogitBlocks) -> tuple[BothSums, list[Tensor]]:
    """Compute all sums in one pass over the rows; return E and F, too, if they are to be kept."""
    b, B = len(problem.image), len(problem.all_text)
    blocks = problem.blocks()
    e_block, f_block = (problem.empty(blocks[0].stop, B) for _ in range(2))
    product = problem.empty(problem.strips(blocks[0])[0].stop, B)
    row_e, row_f, row_fs, own_s = (problem.empty(b) for _ in range(4))
    own_ef = problem.empty(b, 2)
    columns = torch.zeros(3, B, dtype=row_e.dtype, device=row_e.device)
    ones = torch.ones_like(columns[0])
    for block in blocks:
        height = block.stop - block.start
        problem.logits(block, e_block[:height], f_block[:height])
        for rows in problem.strips(block):
            e, f = (part_of(matrix, block, rows) for matrix in (e_block, f_block))
            fs, row_ones = product[: len(e)], ones[: len(e)]
            own_s[rows] = problem.own(rows, e)
            exponentiate(f, problem.teacher_shift)
            own_ef[rows, 1] = problem.own(rows, f)
            problem.own(rows, f).zero_()
            torch.mul(e, f, out=fs)
            exponentiate(e, problem.shift)
            own_ef[rows, 0] = problem.own(rows, e)
            problem.own(rows, e).zero_()
            for matrix, row, column in zip((e, f, fs), (row_e, row_f, row_fs), columns, strict=True):
                torch.mv(matrix, ones, out=row[rows])
                column.addmv_(matrix.T, row_ones)
    sum_over_ranks(columns)
    sums = BothSums(
        PairSums(row_e, row_f, row_fs, *own_ef.unbind(1)),
        PairSums(*columns, *gather_rows(own_ef).unbind(1)),
        own_s,
    )
    return sums, [e_block, f_block] if problem.keep else []


def _values(problem: LogitBlocks, sums: BothSums) -> tuple[Tensor, Tensor, Tensor]:
    own = slice(problem.first_row, problem.first_row + len(problem.image))
    terms = []
    for way in (sums.rows, sums.columns[own]):
        log_sum = way.all_e.log() + problem.shift
        # -log q_ii; a well-matched pair's is far smaller than the logarithms that it is the difference of.
        surprise = torch.where(way.e <= way.own_e, torch.log1p(way.e / way.own_e), log_sum - sums.own_s)
        terms.append(
            torch.stack(
                (
                    surprise.mean(),
                    (way.own_f / way.all_f * surprise).mean(),
                    ((way.f * log_sum - way.fs) / way.all_f).mean(),
                )
            )
        )
    contrastive, diagonal, off_diagonal = ((terms[0] + terms[1]) / 2).unbind()
    return contrastive, diagonal, off_diagonal


def _factors(sums: PairSums, k: float, upstream: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return one direction's factors of E and of F in the gradient, and what it adds at the matched pairs."""
    contrastive, diagonal, off_diagonal = upstream
    attraction = contrastive + diagonal * sums.own_f / sums.all_f
    imitation = off_diagonal * sums.f / sums.all_f
    own = imitation * (sums.own_e / sums.all_e) - attraction * (sums.e / sums.all_e)
    return k * (attraction + imitation) / sums.all_e, -k * off_diagonal / sums.all_f, k * own


def _gradients(
    problem: LogitBlocks, sums: BothSums, kept: list[Tensor], upstream: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients in image [b, D], all texts [B, D] and the logit scale; empties `kept`."""
    b, B = len(problem.image), len(problem.all_text)
    k = 1 / (2 * b)
    a, u, own_rows = _factors(sums.rows, k, upstream)
    c, v, own_columns = _factors(sums.columns, k, upstream)
    d = own_rows + own_columns[problem.first_row : problem.first_row + b]
    factors = (a, c, u, v, d)
    blocks, recompute = problem.blocks(), not kept
    e_block, f_block = kept or [problem.empty(blocks[0].stop, B) for _ in range(2)]
    kept.clear()
    if problem.keep:
        _turn_into_gradient(problem, blocks[0], e_block, f_block, factors, recompute)
        del f_block  # before the results are allocated: two matrices at most at any time
        image, text = e_block @ problem.all_text, e_block.T @ problem.image
    else:
        image, text = torch.empty_like(problem.image), torch.zeros_like(problem.all_text)
        for rows in blocks:
            e, f = e_block[: rows.stop - rows.start], f_block[: rows.stop - rows.start]
            _turn_into_gradient(problem, rows, e, f, factors, recompute)
            torch.mm(e, problem.all_text, out=image[rows])
            text.addmm_(e.T, problem.image[rows])
    # These are sums over G without the logit scale, so that no division by the scale is needed: it may be 0.
    scale = torch.dot(problem.image.flatten(), image.flatten())
    return image.mul_(problem.scale), text.mul_(problem.scale), scale


def _turn_into_gradient(
    problem: LogitBlocks,
    block: slice,
    e_block: Tensor,
    f_block: Tensor,
    factors: Sequence[Tensor],
    recompute: bool,
) -> None:
    """Write the gradient in the logits over a block of E, which is recomputed first if `recompute`."""
    a, c, u, v, d = factors
    if recompute:
        problem.logits(block, e_block, f_block)
    strips = problem.strips(block)
    weights = problem.empty(strips[0].stop - block.start, len(c))
    for rows in strips:
        e, f = (part_of(matrix, block, rows) for matrix in (e_block, f_block))
        if recompute:
            exponentiate(f, problem.teacher_shift)
            exponentiate(e, problem.shift)
        weight = weights[: len(e)]
        e.mul_(torch.add(a[rows, None], c, out=weight))
        e.addcmul_(f, torch.add(u[rows, None], v, out=weight))
        problem.own(rows, e).copy_(d[rows])


def _differentiable_gradients(
    problem: LogitBlocks, image: Tensor, all_text: Tensor, scale: Tensor, upstream: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_gradients` does, from whole matrices and so that it can be differentiated any number of times."""
    teacher = problem.teacher_scale * gather_rows(problem.teacher_image) @ problem.teacher_all_text.T
    student = scale * gather_rows(image) @ all_text.T
    terms = []
    for s, t in ((student, teacher), (student.T, teacher.T)):
        p, log_q = torch.softmax(t, dim=1), torch.log_softmax(s, dim=1)
        terms.append(
            torch.stack(
                (
                    matched_cross_entropy(log_q, 0),
                    diagonal_cross_entropy(p, log_q, 0),
                    off_diagonal_cross_entropy(p, log_q, 0),
                )
            )
        )
    joint = ((terms[0] + terms[1]) / 2).unbind()
    (gradient,) = torch.autograd.grad(joint, student, upstream, create_graph=True)
    # The joint loss is a mean over processes, whose gradients add up (see `losses.gather`).
    rows = world_size() * gradient[problem.first_row : problem.first_row + len(image)]
    return scale * rows @ all_text, scale * rows.T @ image, (rows * (image @ all_text.T)).sum()


class _FusedTerms(torch.autograd.Function):
    """Joins `_values` and `_gradients` to the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        all_text: Tensor,
        scale: Tensor,
        problem: LogitBlocks,
        sums: BothSums,
        kept: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.problem, ctx.sums = problem, sums
        # Not in save_for_backward: the backward pass writes over them, and a second one recomputes them.
        ctx.kept = kept
        ctx.save_for_backward(image, all_text, scale)
        return _values(problem, sums)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        image, all_text, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of this very pass is wanted: second derivatives
            gradients = _differentiable_gradients(ctx.problem, image, all_text, scale, upstream)
        else:
            gradients = _gradients(ctx.problem, ctx.sums, ctx.kept, upstream)
        return (*gradients, None, None, None)
