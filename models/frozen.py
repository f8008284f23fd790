"""Encoders that wrap another one; the frozen teacher."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from models.encoders.dual_encoder import DualEncoder


class WrappedEncoder(DualEncoder):
    """Dual encoder that computes with another one, `model`."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = model.preprocessing
        self.embed_dim = model.embed_dim

    def image_features(self, image: Tensor) -> Tensor:
        """Map images [B, 3, S, S] to unnormalised features [B, D]."""
        return self.model.image_features(image)

    def text_features(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] (int64) to unnormalised features [B, D]."""
        return self.model.text_features(tokens)

    def columns_of(self, tokens: Tensor) -> int:
        """Return how many columns of `tokens` [B, L] the wrapped text tower computes."""
        return self.model.columns_of(tokens)

    @property
    def log_logit_scale(self) -> nn.Parameter:
        """Logarithm of the wrapped model's logit scale."""
        return self.model.log_logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        """Bias on the logits of the wrapped model, or None."""
        return self.model.logit_bias

    def init_args(self) -> dict[str, Any]:
        """Return the wrapped model's constructor arguments."""
        return self.model.init_args()


class FrozenTeacher(WrappedEncoder):
    """Wrapper that keeps a dual encoder in eval mode and out of the autograd graph."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__(model.requires_grad_(False))
        super().train(False)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode: a parent's ``train()`` would enable dropout and batch norm updates."""
        return super().train(False)

    @torch.no_grad()
    def image_features(self, image: Tensor) -> Tensor:
        """Map images [B, 3, S, S] to unnormalised features [B, D], without gradients."""
        return super().image_features(image)

    @torch.no_grad()
    def text_features(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] (int64) to unnormalised features [B, D], without gradients."""
        return super().text_features(tokens)

    def recipe(self) -> dict[str, Any]:
        """Return the wrapped model's recipe."""
        return self.model.recipe()


def freeze(model: DualEncoder) -> FrozenTeacher:
    """Return `model` frozen; an already frozen model is returned unchanged."""
    return model if isinstance(model, FrozenTeacher) else FrozenTeacher(model)
