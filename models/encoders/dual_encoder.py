"""Common interface of teachers and students."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.preprocessing import Preprocessing
from models.text.tokenizer import build_tokenizer


class DualEncoder(nn.Module, ABC):
    """Image tower and text tower that embed into one space of `embed_dim` dimensions.

    Subclasses set `preprocessing` and `embed_dim` and implement `image_features`, `text_features`,
    `log_logit_scale` and `init_args`. `fused` tells whether the image tower is reparameterised (`models.fused_copy`),
    `frozen` whether the model stays in eval mode (`freeze`).
    """

    preprocessing: Preprocessing
    embed_dim: int
    fused: bool = False
    frozen: bool = False

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
        """Set training or eval mode; a frozen model stays in eval mode when its parent trains.

        Raises:
            ValueError: A fused model is asked to train.
        """
        mode = mode and not self.frozen
        if mode and self.fused:
            raise ValueError(
                "a fused model cannot be trained: it has no branches and batch norms left; "
                "train the original model and fuse it again"
            )
        return super().train(mode)

    def encode_image(self, image: Tensor) -> Tensor:
        """Embed images [B, 3, S, S]: unit-length [B, D], in float32 or the towers' wider dtype."""
        return _unit(self.image_features(image))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed token ids [B, L] (int64): unit-length [B, D], same dtype as image embeddings."""
        return _unit(self.text_features(tokens))

    def forward(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embed a batch of pairs: ([B, D], [B, D])."""
        return self.encode_image(image), self.encode_text(tokens)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Tokenise `texts` as this model expects: [N, L], int64, on the CPU."""
        return build_tokenizer(self.preprocessing)(texts)

    def columns_of(self, tokens: Tensor) -> int:
        """Return how many columns of `tokens` [B, L] the text tower computes."""
        return tokens.shape[1]

    @torch.no_grad()
    def clamp_logit_scale(self, maximum: float) -> None:
        """Keep the logit scale in [1, maximum] (CLIP, Radford et al. 2021, section 2.5 uses 100)."""
        self.log_logit_scale.clamp_(0.0, math.log(maximum))

    def recipe(self) -> dict[str, Any]:
        """Return the ``class_path`` and ``init_args`` that rebuild this architecture without its weights.

        Public classes are named by their public path, ``models.TimmEncoder``, which stays valid when modules move.
        """
        kind = type(self)
        public = getattr(sys.modules["models"], kind.__qualname__, None) is kind
        module = "models" if public else kind.__module__
        return {"class_path": f"{module}.{kind.__qualname__}", "init_args": self.init_args()}


def freeze(model: DualEncoder) -> DualEncoder:
    """Freeze a teacher in place: eval mode whatever its parent's mode, no gradients of its parameters."""
    model.frozen = True
    return model.requires_grad_(False).eval()


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode; afterwards each of its modules has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _unit(features: Tensor) -> Tensor:
    """Normalise rows [B, D] to unit length, in float32 or wider."""
    return normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
