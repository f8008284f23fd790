"""Baselines: loss, training views and zero-shot evaluation as the authors describe them.

Written from the description, not from their code. Nothing is shared between directions, views or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V  # noqa: N812

from datamodules.pairs.image_reading import open_image
from models import DualEncoder, OpenCLIPEncoder, Preprocessing

EVALUATION_BATCH = 16
Embedded = tuple[Tensor, Tensor, Tensor]  # image [B, D], text [B, D], logit scale


def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Return CLIP's symmetric cross-entropy, a scalar."""
    labels = torch.arange(len(image), device=image.device)
    image_logits = scale * image @ text.T
    text_logits = scale * text @ image.T
    return (F.cross_entropy(image_logits, labels) + F.cross_entropy(text_logits, labels)) / 2


def decoupled_divergence(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the diagonal and the off-diagonal part of KL(p || q) for one direction of logits [B, B]."""
    p = F.softmax(teacher / temperature, dim=1)
    log_q = F.log_softmax(student, dim=1)
    divergence = F.kl_div(log_q, p, reduction="none")
    own = torch.eye(len(p), device=p.device, dtype=p.dtype)
    others = 1 - own
    return (divergence * own).sum(dim=1).mean(), (divergence * others).sum(dim=1).mean()


def srkd_loss(
    student: Embedded, teacher: Embedded, temperature: float = 5.0, off_diagonal_weight: float = 2.0
) -> Tensor:
    """Return the whole loss."""
    image, text, scale = student
    task = clip_loss(image, text, scale)
    image_logits = scale * image @ text.T
    text_logits = scale * text @ image.T
    with torch.no_grad():
        t_image, t_text, t_scale = teacher
        teacher_image_logits = t_scale * t_image @ t_text.T
        teacher_text_logits = t_scale * t_text @ t_image.T
    image_diagonal, image_others = decoupled_divergence(image_logits, teacher_image_logits, temperature)
    text_diagonal, text_others = decoupled_divergence(text_logits, teacher_text_logits, temperature)
    diagonal = (image_diagonal + text_diagonal) / 2
    others = (image_others + text_others) / 2
    return task + diagonal + off_diagonal_weight * others


@dataclass(frozen=True)
class Draw:
    """One augmentation: degrees, shift relative to the side, changes of brightness and contrast."""

    rotation: float
    shift: tuple[float, float]
    brightness: float
    contrast: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Draw:
        """Draw within the paper's ranges."""
        across, down, brightness, contrast = rng.uniform(-1, 1, 4)
        return cls(rng.uniform(-7, 7), (0.05 * across, 0.05 * down), 0.15 * brightness, 0.15 * contrast)


def padded(path: str | Path) -> Image.Image:
    """Decode a file and pad it to a square."""
    image = open_image(path).convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def normalised(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return a picture of the model's size as a tensor [3, S, S]."""
    return V.normalize(
        V.pil_to_tensor(image).float() / 255, list(preprocessing.mean), list(preprocessing.std)
    )


def view(square: Image.Image, preprocessing: Preprocessing, draw: Draw) -> Image.Image:
    """Return one training view as an 8-bit picture of the model's size."""
    size = preprocessing.image_size
    resized = V.resize(square, [size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    cropped = V.center_crop(resized, [size, size])
    shift = [draw.shift[0] * size, draw.shift[1] * size]
    moved = V.affine(cropped, draw.rotation, shift, 1.0, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
    return V.adjust_contrast(V.adjust_brightness(moved, 1 + draw.brightness), 1 + draw.contrast)


def two_views(path: Path, contracts: Sequence[Preprocessing], draw: Draw) -> list[Tensor]:
    """Decode a file and return each model's normalised view, [3, S, S]."""
    square = padded(path)
    return [normalised(view(square, contract, draw), contract) for contract in contracts]


class AuthorsPairs(torch.utils.data.Dataset):
    """Training pairs of files: student's and teacher's view, and a fixed caption's tokens for both."""

    def __init__(
        self, paths: list[Path], contracts: Sequence[Preprocessing], tokens: Sequence[Tensor]
    ) -> None:
        self.paths = paths
        self.contracts = contracts
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        draw = Draw.random(np.random.default_rng(index))
        return *two_views(self.paths[index], self.contracts, draw), *self.tokens


@torch.no_grad()
def encode_prompts(model: DualEncoder, prompts: Sequence[str]) -> Tensor:
    """Encode all prompts of one template in one batch over the whole context, [N, D]; for HC18 again at every image."""
    tokens = model.tokenize(list(prompts))
    whole = model.model.encode_text if isinstance(model, OpenCLIPEncoder) else model.text_features
    return F.normalize(whole(tokens), dim=-1)


def load_image(path: str, preprocessing: Preprocessing) -> Tensor:
    """Decode, pad to a square and resize with Pillow: [3, S, S]."""
    size = preprocessing.image_size
    return normalised(padded(path).resize((size, size), Image.Resampling.BICUBIC), preprocessing)


@torch.no_grad()
def embed_images(model: DualEncoder, paths: Sequence[str]) -> Tensor:
    """Decode and embed serially in small batches, [N, D]."""
    parts = []
    for start in range(0, len(paths), EVALUATION_BATCH):
        images = [load_image(path, model.preprocessing) for path in paths[start : start + EVALUATION_BATCH]]
        parts.append(model.encode_image(torch.stack(images)))
    return torch.cat(parts)
