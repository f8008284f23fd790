"""The embeddings of a batch, on this process and gathered from all processes; the only collective code of the losses.

Convention. Rank r of W holds b of the B = W b pairs and computes the loss of ITS rows against ALL columns, L_r; the
loss of the joint batch is L = mean_r L_r. Columns are gathered with gradients, so the backward pass of rank r leaves
dL_0 + ... + dL_{W-1} = W dL in the embeddings of its own rows. DistributedDataParallel then AVERAGES parameter
gradients over ranks, which divides by W: every parameter, the logit scale included, ends with exactly the gradient of
the joint batch. Every rank must hold the same number of pairs (drop the last, incomplete batch).

Shape letters: b pairs of this process, B pairs of all processes (b = B in a single process), D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of one batch: row i of `image` and row i of `text` are one pair.

    Attributes:
        image: Unit-length image embeddings [b, D], any floating dtype.
        text: Unit-length text embeddings [b, D].
        logit_scale: Factor on the cosines, a scalar tensor, already exponentiated.
        logit_bias: Scalar added to the logits (sigmoid losses only), or None.
        caption_id: int64 [b], equal where two captions are equal, or None when unknown.
        class_id: int64 [b], equal where two images have the same plane and sub-plane, or None when unknown.
    """

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor | None = None
    caption_id: Tensor | None = None
    class_id: Tensor | None = None

    def __post_init__(self) -> None:
        image, text = tuple(self.image.shape), tuple(self.text.shape)
        if len(image) != 2 or image != text:
            raise ValueError(
                f"image and text embeddings must both be [B, D], not {list(image)} and {list(text)}"
            )
        if not image[0]:
            raise ValueError("the batch is empty: image and text embeddings are [0, D]")
        if not isinstance(self.logit_scale, Tensor):
            raise ValueError(f"logit_scale must be a scalar tensor: torch.tensor({self.logit_scale!r})")
        if self.logit_scale.numel() != 1:
            raise ValueError(f"logit_scale must be a scalar tensor, not {list(self.logit_scale.shape)}")
        for name, ids in (("caption_id", self.caption_id), ("class_id", self.class_id)):
            if ids is not None and tuple(ids.shape) != image[:1]:
                raise ValueError(f"{name} must be [{image[0]}], one per pair, not {list(ids.shape)}")

    def to(self, dtype: torch.dtype) -> Embeddings:
        """Return the embeddings in another floating dtype, with scalars of shape []."""
        bias = self.logit_bias
        return replace(
            self,
            image=self.image.to(dtype),
            text=self.text.to(dtype),
            logit_scale=self.logit_scale.to(dtype).reshape(()),
            logit_bias=None if bias is None else bias.to(dtype).reshape(()),
        )

    def detach(self) -> Embeddings:
        """Return the embeddings without gradient, as the teacher's must be."""
        parts = {name: getattr(self, name) for name in ("image", "text", "logit_scale", "logit_bias")}
        return replace(self, **{name: x.detach() for name, x in parts.items() if x is not None})


class JointBatch:
    """One model's embeddings of this process's pairs and, gathered on first use, of all pairs.

    Row i of `local` matches column ``first_row + i`` of the joint batch.
    """

    def __init__(self, local: Embeddings) -> None:
        self.local = local
        self.first_row = rank() * len(local.image)

    @cached_property
    def all_image(self) -> Tensor:
        """Image embeddings of all processes [B, D]."""
        return gather_rows(self.local.image)

    @cached_property
    def all_text(self) -> Tensor:
        """Text embeddings of all processes [B, D]."""
        return gather_rows(self.local.text)

    @cached_property
    def all_caption_id(self) -> Tensor:
        """Caption ids of all processes [B], int64."""
        if self.local.caption_id is None:
            raise ValueError("cannot find duplicate captions: the embeddings carry no caption_id")
        return gather_rows(self.local.caption_id)

    @cached_property
    def image_logits(self) -> Tensor:
        """Image-to-text logits [b, B], ``logit_scale * <image_i, text_j>``; a bias would cancel in a row's softmax."""
        return self.local.logit_scale * self.local.image @ self.all_text.T

    @cached_property
    def text_logits(self) -> Tensor:
        """Text-to-image logits [b, B]."""
        if world_size() == 1:
            return self.image_logits.T
        return self.local.logit_scale * self.local.text @ self.all_image.T

    @cached_property
    def same_caption(self) -> Tensor:
        """Bool [b, B]: True where the captions of row i and column j are equal, the matched pair included."""
        return self._equal(self.all_caption_id)

    @cached_property
    def same_class(self) -> Tensor:
        """Bool [b, B]: True where the images of row i and column j have the same plane and sub-plane."""
        if self.local.class_id is None:
            raise ValueError(
                "no class_id in the batch: finding images of the same class needs the plane of every image"
            )
        return self._equal(gather_rows(self.local.class_id))

    def _equal(self, all_ids: Tensor) -> Tensor:
        own = all_ids[self.first_row : self.first_row + len(self.local.image)]
        return own[:, None] == all_ids[None, :]

    @property
    def other_same_caption(self) -> Tensor:
        """Bool [b, B]: as `same_caption`, but False on the matched pair."""
        other = self.same_caption.clone()
        other.diagonal(offset=self.first_row).fill_(False)
        return other

    @cached_property
    def duplicate_rate(self) -> Tensor:
        """Share of the joint batch whose caption occurs more than once in it, a scalar in [0, 1]."""
        ids = self.all_caption_id.sort().values  # not torch.unique, whose size the CPU would wait for
        same = (ids[1:] == ids[:-1]).float()
        return torch.maximum(pad(same, (0, 1)), pad(same, (1, 0))).mean()


def world_size() -> int:
    """Return the number of processes that share a batch: 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows [b, ...] of every process in rank order; differentiable in every process's part."""
    if world_size() == 1:
        return rows
    rows = rows.contiguous()
    if rows.requires_grad:
        return torch.cat(tuple(all_gather(rows)))
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def with_joint_values(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace the VALUE of each scalar by its mean over all processes and keep the GRADIENT of this process.

    Every rank then logs, and checks for NaN, the loss of the joint batch.
    """
    if world_size() == 1 or not terms:
        return terms
    local = torch.stack([term.detach() for term in terms.values()])
    joint = local.clone()
    dist.all_reduce(joint)
    correction = joint / world_size() - local
    return {name: term + correction[k] for k, (name, term) in enumerate(terms.items())}


def sum_over_ranks(values: Tensor) -> None:
    """Sum `values` over all processes, in place and without gradient."""
    if world_size() > 1:
        dist.all_reduce(values)


def all_agree(condition: bool) -> bool:
    """Return whether `condition` holds on every process, so that all of them take the same path."""
    if world_size() == 1:
        return condition
    flag = torch.tensor(float(condition), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag)
