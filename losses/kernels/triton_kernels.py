"""The two Triton kernels of `losses.kernels.tiles`."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _part(s, t, other, start, step, inside, axis: tl.constexpr, LOW: tl.constexpr):
    """Store the five sums of `tiles._merged` of a tile over `axis` at ``start``, ``start + step``, ..."""
    low_s = tl.max(tl.where(other, s, LOW), axis)
    low_t = tl.max(tl.where(other, t, LOW), axis)
    e = tl.where(other, tl.exp(s - tl.expand_dims(low_s, axis)), 0.0)
    f = tl.where(other, tl.exp(t - tl.expand_dims(low_t, axis)), 0.0)
    tl.store(start, low_s, mask=inside)
    tl.store(start + step, tl.sum(e, axis), mask=inside)
    tl.store(start + 2 * step, low_t, mask=inside)
    tl.store(start + 3 * step, tl.sum(f, axis), mask=inside)
    tl.store(start + 4 * step, tl.sum(f * s, axis), mask=inside)


@triton.jit
def sums(
    s_ptr,
    t_ptr,
    rows_ptr,
    columns_ptr,
    R,
    B,
    offset,
    LOW: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Reduce a tile of both logits over its rows and its columns, without the matched pairs; see `tiles._run_sums`."""
    down, across = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    row, column = down * TALL + tl.arange(0, TALL), across * WIDE + tl.arange(0, WIDE)
    inside = (row[:, None] < R) & (column[None, :] < B)
    other = inside & (column[None, :] != row[:, None] + offset)
    place = row[:, None] * B + column[None, :]
    s = tl.load(s_ptr + place, mask=inside, other=0.0)
    t = tl.load(t_ptr + place, mask=inside, other=0.0)
    of_rows, of_columns = rows_ptr + across * R + row, columns_ptr + down * B + column
    _part(s, t, other, of_rows, tl.num_programs(1).to(tl.int64) * R, row < R, 1, LOW)
    _part(s, t, other, of_columns, tl.num_programs(0).to(tl.int64) * B, column < B, 0, LOW)


@triton.jit
def gradient(
    s_ptr, t_ptr, rows_ptr, columns_ptr, off_ptr, R, B, offset, TALL: tl.constexpr, WIDE: tl.constexpr
):
    """Overwrite a tile of the student's logits with the gradient; see `tiles._run_gradient`."""
    row = tl.program_id(0).to(tl.int64) * TALL + tl.arange(0, TALL)
    column = tl.program_id(1).to(tl.int64) * WIDE + tl.arange(0, WIDE)
    there, here = row < R, column < B
    inside = there[:, None] & here[None, :]
    place = row[:, None] * B + column[None, :]
    s = tl.load(s_ptr + place, mask=inside, other=0.0)
    t = tl.load(t_ptr + place, mask=inside, other=0.0)
    row_factor = tl.load(rows_ptr + row, mask=there, other=0.0)[:, None]
    row_s = tl.load(rows_ptr + R + row, mask=there, other=0.0)[:, None]
    row_t = tl.load(rows_ptr + 2 * R + row, mask=there, other=0.0)[:, None]
    own = tl.load(rows_ptr + 3 * R + row, mask=there, other=0.0)[:, None]
    column_factor = tl.load(columns_ptr + column, mask=here, other=0.0)[None, :]
    column_s = tl.load(columns_ptr + B + column, mask=here, other=0.0)[None, :]
    column_t = tl.load(columns_ptr + 2 * B + column, mask=here, other=0.0)[None, :]
    off_diagonal = tl.load(off_ptr)
    q = row_factor * tl.exp(s - row_s) + column_factor * tl.exp(s - column_s)
    p = tl.exp(t - row_t) + tl.exp(t - column_t)
    result = tl.where(column[None, :] == row[:, None] + offset, own, q - off_diagonal * p)
    tl.store(s_ptr + place, result, mask=inside)
