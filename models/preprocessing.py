"""Preprocessing contract: image size, normalisation, resize kernel and tokenizer that a model expects.

A model with the wrong normalisation fails silently. So data modules read the contract from the model, checkpoints and
exported artifacts store it, and loading by path restores it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PIXEL_SIZE_MM = (0.02, 2.0)
"""Smallest and largest plausible side of an original pixel, in millimetres; others are likely in another unit."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Image and text preprocessing that one model expects.

    Images are zero-padded to a square, resized to `image_size` pixels (antialiased, kernel `interpolation`) and
    normalised as ``(pixel / 255 - mean) / std`` by RGB channel. Texts are tokenised to `context_length` tokens
    by `tokenizer`: ``clip`` (open_clip's byte-pair encoding, 49,408 entries), ``fetal`` (this project's compact
    vocabulary) or ``hf:FOLDER`` (a saved `transformers` tokenizer).
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    tokenizer: str = "clip"
    context_length: int = 77

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if self.image_size < 1 or self.context_length < 1:
            sizes = f"{self.image_size} and {self.context_length}"
            raise ValueError(f"preprocessing: image_size and context_length must be positive, not {sizes}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            statistics = f"{self.mean} and {self.std}"
            raise ValueError(f"preprocessing: mean and std need three values and std > 0, not {statistics}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"preprocessing: interpolation {self.interpolation!r} is not bilinear or bicubic"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as primitives, for checkpoints and manifests; `Preprocessing` takes them as keywords."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}


def pad_to_square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Centre an image [H, W(, 3)] on a black square of its longer side; an odd pixel is added right or below."""
    height, width = image.shape[:2]
    if height == width:
        return image
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, *image.shape[2:]), image.dtype)
    square[top : top + height, left : left + width] = image
    return square


def resize_padded(image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Pad to a square and resize as the published evaluation does: uint8 [H, W] or [H, W, 3] to [S, S] or [S, S, 3].

    The resize is Pillow's antialiased kernel, as in torchvision with Pillow images. The protocol's centre crop after it
    has no effect on a square.
    """
    size = (preprocessing.image_size, preprocessing.image_size)
    kernel = Image.Resampling[preprocessing.interpolation.upper()]
    return np.asarray(Image.fromarray(pad_to_square(image)).resize(size, kernel))


def input_spacing(size: tuple[int, int], image_size: int, pixel_size_mm: float) -> float:
    """Return the millimetres per pixel of a model's input for an original of (width, height) in pixels."""
    return max(size) / image_size * pixel_size_mm
