"""What the fused loss knows of its two exponential matrices: sums over the mismatched pairs, matched ones apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from losses.gather import all_agree


@dataclass(frozen=True)
class PairSums:
    """One direction's sums of E, F and F * S over the mismatched pairs of each row, and its matched pair's own.

    E and F are the exponentials of the student's and the teacher's logits, S the student's logits; all [rows].
    """

    e: Tensor
    f: Tensor
    fs: Tensor
    own_e: Tensor
    own_f: Tensor

    @property
    def all_e(self) -> Tensor:
        """Sum of E over all pairs."""
        return self.e + self.own_e

    @property
    def all_f(self) -> Tensor:
        """Sum of F over all pairs."""
        return self.f + self.own_f

    def __getitem__(self, rows: slice) -> PairSums:
        return PairSums(self.e[rows], self.f[rows], self.fs[rows], self.own_e[rows], self.own_f[rows])


@dataclass(frozen=True)
class BothSums:
    """The sums over this process's rows (image to text) and over all columns (text to image)."""

    rows: PairSums
    columns: PairSums
    own_s: Tensor

    def are_precise(self) -> bool:
        """Whether no number that matters was lost to underflow or overflow, on any rank."""
        kind = torch.finfo(self.own_s.dtype)
        # Numbers flushed to zero are below `tiny`; B of them may not matter beside any sum.
        least = kind.tiny / kind.eps * len(self.columns.e)
        positive = torch.cat([sums for way in (self.rows, self.columns) for sums in (way.all_e, way.all_f)])
        sums = torch.cat((positive, self.rows.fs, self.columns.fs))
        return all_agree(bool((positive.min() >= least) & torch.isfinite(sums).all()))
