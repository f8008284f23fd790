"""Baseline: two training views of one image as the authors describe them, with Pillow and each view by itself.

Written from the description, not from their code: for each model the picture is padded, resized, cropped, moved,
jittered and normalised again. With the same draw both views show the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from datamodules.pairs.image_reading import open_image
from models import Preprocessing


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
        shift = rng.uniform(-0.05, 0.05, 2)
        return cls(
            rng.uniform(-7, 7), (float(shift[0]), float(shift[1])), *rng.uniform(-0.15, 0.15, 2).tolist()
        )


def view(image: Image.Image, preprocessing: Preprocessing, draw: Draw) -> Image.Image:
    """Return one view as an 8-bit picture of the model's size."""
    size = preprocessing.image_size
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    resized = F.resize(square, [size], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    cropped = F.center_crop(resized, [size, size])
    moved = F.affine(
        cropped,
        draw.rotation,
        [draw.shift[0] * size, draw.shift[1] * size],
        1.0,
        [0.0, 0.0],
        interpolation=v2.InterpolationMode.BILINEAR,
    )
    return F.adjust_contrast(F.adjust_brightness(moved, 1 + draw.brightness), 1 + draw.contrast)


def two_views(
    path: Path, student: Preprocessing, teacher: Preprocessing, draw: Draw
) -> tuple[Tensor, Tensor]:
    """Decode a file and return both models' normalised views, [3, S, S] and [3, T, T]."""
    image = open_image(path).convert("RGB")
    views = []
    for contract in (student, teacher):
        pixels = F.pil_to_tensor(view(image, contract, draw)).float() / 255
        views.append(F.normalize(pixels, list(contract.mean), list(contract.std)))
    return views[0], views[1]


class AuthorsPairs(torch.utils.data.Dataset):
    """Training pairs of files, both views each, with a fixed caption's tokens."""

    def __init__(
        self, paths: list[Path], student: Preprocessing, teacher: Preprocessing, tokens: tuple[Tensor, Tensor]
    ) -> None:
        self.paths = paths
        self.contracts = student, teacher
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return student's and teacher's image and tokens."""
        draw = Draw.random(np.random.default_rng(index))
        one, other = two_views(self.paths[index], *self.contracts, draw)
        return one, other, *self.tokens
