"""What every loss receives of a model: the embeddings of one batch of image-text pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The embeddings of one batch: row i of `image` and row i of `text` are one pair.

    Attributes:
        image: Unit-length image embeddings [B, D], any floating dtype.
        text: Unit-length text embeddings [B, D].
        logit_scale: The factor on cosines, a scalar tensor, already exponentiated.
        logit_bias: A scalar added to the logits (sigmoid losses only), or None.
        caption_id: int64 [B], equal where two captions are equal, or None when unknown.

    Raises:
        ValueError: The shapes do not fit together.
    """

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor | None = None
    caption_id: Tensor | None = None

    def __post_init__(self) -> None:
        image, text = tuple(self.image.shape), tuple(self.text.shape)
        if len(image) != 2 or len(text) != 2:
            raise ValueError(f"embeddings must be [B, D]; image is {list(image)} and text is {list(text)}")
        if image[0] != text[0]:
            raise ValueError(
                f"image and text batch sizes differ: {image[0]} and {text[0]}; pass one text an image"
            )
        if image[1] != text[1]:
            raise ValueError(
                f"image and text embedding dimensions differ: {image[1]} and {text[1]}; both towers of a "
                "model must project to the same D"
            )
        for name, scalar in (("logit_scale", self.logit_scale), ("logit_bias", self.logit_bias)):
            if scalar is not None and scalar.numel() != 1:
                raise ValueError(f"{name} must be a scalar tensor, not {list(scalar.shape)}")
        if self.caption_id is not None and tuple(self.caption_id.shape) != image[:1]:
            raise ValueError(
                f"caption_id must be [{image[0]}], one a pair, not {list(self.caption_id.shape)}"
            )

    def to(self, dtype: torch.dtype) -> Embeddings:
        """Return the same embeddings, with scalars of shape [], in another floating dtype."""
        bias = self.logit_bias
        return Embeddings(
            image=self.image.to(dtype),
            text=self.text.to(dtype),
            logit_scale=self.logit_scale.to(dtype).reshape(()),
            logit_bias=None if bias is None else bias.to(dtype).reshape(()),
            caption_id=self.caption_id,
        )

    def detach(self) -> Embeddings:
        """Return the same embeddings cut from the graph, as a teacher's must be."""
        bias = self.logit_bias
        return Embeddings(
            image=self.image.detach(),
            text=self.text.detach(),
            logit_scale=self.logit_scale.detach(),
            logit_bias=None if bias is None else bias.detach(),
            caption_id=self.caption_id,
        )
