"""One process's pairs beside the pairs of all processes, and the similarity logits between them.

Shape letters: b pairs of this process, B pairs of all processes (b = B in a single process), D dimensions.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from losses.embeddings import Embeddings
from losses.gather import gather_rows, rank, world_size


class JointBatch:
    """The embeddings of one model for this process's rows and, gathered when first asked for, all rows.

    Attributes:
        local: This process's embeddings.
        first_row: Place of this process's first pair in the joint batch: row i here matches column
            ``first_row + i``.
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
        """Caption ids of all processes [B], int64.

        Raises:
            ValueError: The batch came without caption ids.
        """
        if self.local.caption_id is None:
            raise ValueError("duplicate captions cannot be found: the embeddings carry no caption_id")
        return gather_rows(self.local.caption_id)

    @cached_property
    def image_logits(self) -> Tensor:
        """Image-to-text logits [b, B]: ``logit_scale * <image_i, text_j>``.

        A logit bias is left out: a softmax over a row does not see it.
        """
        return self.local.logit_scale * self.local.image @ self.all_text.T

    @cached_property
    def text_logits(self) -> Tensor:
        """Text-to-image logits [b, B]."""
        if world_size() == 1:
            return self.image_logits.T
        return self.local.logit_scale * self.local.text @ self.all_image.T

    @cached_property
    def same_caption(self) -> Tensor:
        """Bool [b, B]: True where the captions of row i and column j are equal, the own pair included."""
        all_ids = self.all_caption_id
        own = all_ids[self.first_row : self.first_row + len(self.local.image)]
        return own[:, None] == all_ids[None, :]

    @property
    def other_same_caption(self) -> Tensor:
        """Bool [b, B]: as `same_caption`, but False on the own pair."""
        other = self.same_caption.clone()
        other.diagonal(offset=self.first_row).fill_(False)
        return other

    @cached_property
    def duplicate_rate(self) -> Tensor:
        """Share of the joint batch whose caption occurs more than once in it, a scalar in [0, 1]."""
        counts: Tensor = torch.unique(self.all_caption_id, return_counts=True)[1]
        return counts[counts > 1].sum() / len(self.all_caption_id)
