"""The one interface that teachers and students share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.preprocessing import Preprocessing
from models.tokenizer import build_tokenizer


class DualEncoder(nn.Module, ABC):
    """An image tower and a text tower that embed into one space of `embed_dim` dimensions.

    Subclasses set `preprocessing` and `embed_dim` and implement `image_features`, `text_features`,
    `log_logit_scale` and `init_args`.

    Attributes:
        preprocessing: What the model expects of its inputs.
        embed_dim: Dimension D of both embeddings.
        fused: Whether the image tower's training branches are folded away (`models.fused_copy`).
    """

    preprocessing: Preprocessing
    embed_dim: int
    fused: bool = False

    @abstractmethod
    def image_features(self, image: Tensor) -> Tensor:
        """Map images [B, 3, S, S] to unnormalised features [B, D]."""

    @abstractmethod
    def text_features(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] (int64) to unnormalised features [B, D]."""

    @property
    @abstractmethod
    def log_logit_scale(self) -> nn.Parameter:
        """The learned scalar whose exponential multiplies cosines."""

    @property
    def logit_bias(self) -> Tensor | None:
        """The learned scalar added to the logits (sigmoid losses), or None."""
        return None

    @abstractmethod
    def init_args(self) -> dict[str, Any]:
        """Return the constructor arguments, as primitives, that rebuild the architecture without weights."""

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosines, a scalar tensor."""
        return self.log_logit_scale.exp().reshape(())  # some checkpoints store one-element vectors

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode.

        Raises:
            ValueError: A fused model is asked to train.
        """
        if mode and self.fused:
            raise ValueError(
                "a fused model cannot be trained: its branches and batch norm are folded away; "
                "train the model that it was copied from, and fuse again"
            )
        return super().train(mode)

    def encode_image(self, image: Tensor) -> Tensor:
        """Embed images.

        Args:
            image: Preprocessed images [B, 3, S, S].

        Returns:
            Unit-length embeddings [B, D]: float32 from towers in half precision, else the towers' dtype.
        """
        return _unit(self.image_features(image))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed tokenised texts.

        Args:
            tokens: Token ids [B, L], int64.

        Returns:
            Unit-length embeddings [B, D], of the same dtype as those of images.
        """
        return _unit(self.text_features(tokens))

    def forward(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embed a batch of pairs: ([B, D], [B, D])."""
        return self.encode_image(image), self.encode_text(tokens)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Tokenise `texts` as this model expects: [N, L], int64, on the CPU."""
        return build_tokenizer(self.preprocessing)(texts)

    def columns_of(self, tokens: Tensor) -> int:
        """Return how many of the columns of `tokens` [B, L] pass the text tower: all of them, unless it is cut."""
        return tokens.shape[1]

    @torch.no_grad()
    def clamp_logit_scale(self, maximum: float) -> None:
        """Keep the logit scale in [1, maximum] (CLIP, Radford et al. 2021, section 2.5 uses 100)."""
        self.log_logit_scale.clamp_(0.0, math.log(maximum))

    def recipe(self) -> dict[str, Any]:
        """Return the ``class_path`` and ``init_args`` that rebuild this architecture without its weights."""
        kind = type(self)
        return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": self.init_args()}


def _unit(features: Tensor) -> Tensor:
    """Normalise rows [B, D] to unit length, in float32 at least."""
    return normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
