"""Modules that are exported: pixel values to embedding or probabilities, tokens to embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models import DualEncoder
from models.zero_shot import COSINE_SCALE


class PixelEncoder(nn.Module):
    """Image tower that takes pixel values and normalises them: one multiplication and one addition per channel.

    A single-channel frame is repeated, so that the same module serves gray cameras.

    Args:
        model: The dual encoder; its text tower is not used.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model
        mean = torch.tensor(model.preprocessing.mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        std = torch.tensor(model.preprocessing.std, dtype=torch.float64).reshape(1, 3, 1, 1)
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("offset", (-mean / std).float())

    def forward(self, image: Tensor) -> Tensor:
        """Map pixel values [B, 3 or 1, S, S] (float32, 0 to 255, RGB) to unit embeddings [B, D], float32."""
        image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        return self.model.encode_image(image * self.scale + self.offset)


class PixelClassifier(nn.Module):
    """Image tower with zero-shot classes on top: pixel values to probabilities.

    Args:
        encoder: The image encoder.
        classes: Unit-length class vectors [C, D].
    """

    weights: Tensor

    def __init__(self, encoder: PixelEncoder, classes: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("weights", COSINE_SCALE * classes.float())

    def forward(self, image: Tensor) -> Tensor:
        """Map pixel values [B, 3 or 1, S, S] to softmax(100 * cosine), [B, C], float32."""
        logits = nn.functional.linear(self.encoder(image), self.weights)
        return torch.softmax(logits, dim=-1)


class TokenEncoder(nn.Module):
    """Text tower of a dual encoder."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] (int64) to unit embeddings [B, D], float32."""
        return self.model.encode_text(tokens)
