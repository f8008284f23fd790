"""Image transforms of training (with albumentations) and evaluation.

Training draws one random geometry and brightness per image and renders it at every model's size, so that
student and teacher see the same picture. Evaluation reproduces the published protocol exactly.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from torch import Tensor

from datamodules.ingest.overlays import mask_overlays
from models import Preprocessing
from models.preprocessing import pad_to_square

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no version check over the network at import
import albumentations as A  # noqa: N812

# The random geometry is applied at up to twice the largest view: its interpolation does not blur the views, and it
# is much cheaper than at the full size of a scan.
_OVERSAMPLING = 2


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes of a training image; every draw is uniform within plus or minus the value.

    Attributes:
        rotation_degrees: Rotation about the image centre.
        translation: Shift along each axis, as a share of the padded side.
        brightness: Relative change of the pixel values, which are multiplied by 1 plus the draw.
        contrast: Relative change of the pixel values' differences from their mean.
        zoom: Magnification between 1 / (1 + zoom) and 1 + zoom, log-uniform; 0 for none, as in the paper. Captions
            state the pixel spacing after it, so the model learns heads of one age at many scales.
        mask_overlays: Whether text and rulers beside the sector and callipers in it are removed first.
    """

    rotation_degrees: float = 7.0
    translation: float = 0.05
    brightness: float = 0.15
    contrast: float = 0.15
    zoom: float = 0.0
    mask_overlays: bool = False

    def __post_init__(self) -> None:
        if min(self.rotation_degrees, self.translation, self.brightness, self.contrast, self.zoom) < 0:
            raise ValueError(f"augmentation: ranges cannot be negative, got {self}")


class TwoViewTransform:
    """Render the same picture for the student and for the teacher.

    Both views use one area-averaging resize (cubic for enlarging) instead of the contract's kernel, at a fraction of
    Pillow's time, so that they differ only in size and statistics.

    With `student_only`, no teacher's view is rendered, but its size still determines `working_side`, the largest side
    of the square that the random geometry is applied to: the student sees the same pictures as with a teacher.
    """

    def __init__(
        self,
        student: Preprocessing,
        teacher: Preprocessing | None,
        augmentation: Augmentation | None,
        student_only: bool = False,
    ) -> None:
        views = (student,) if teacher is None else (student, teacher)
        self.working_side = _OVERSAMPLING * max(view.image_size for view in views)
        self.views = views[:1] if student_only else views
        self._augment = None if augmentation is None else _compose(augmentation)
        self.masks_overlays = augmentation is not None and augmentation.mask_overlays
        self._zoom = 0.0 if augmentation is None else math.log1p(augmentation.zoom)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor | None]:
        """Render one image, uint8 [H, W] or [H, W, 3]; `rng` is the only source of randomness.

        Returns:
            The student's view [3, S, S] and the teacher's [3, T, T] (None without one), float32, normalised.
        """
        return self.render(self.prepare(image), rng, self.draw_zoom(rng))

    def draw_zoom(self, rng: np.random.Generator) -> float:
        """Draw a magnification; exactly 1 without one."""
        return math.exp(rng.uniform(-self._zoom, self._zoom)) if self._zoom else 1.0

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Apply the deterministic part: mask overlays, pad to a square and shrink to at most `working_side`."""
        if self.masks_overlays:
            image = mask_overlays(image)
        square = pad_to_square(image)
        return _resize(square, min(len(square), self.working_side))

    def render(
        self, square: np.ndarray, rng: np.random.Generator, zoom: float = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the random part, then resize and normalise each view; see `__call__`."""
        views = self.normalised(self.draw(square, rng, zoom))
        return views[0], views[1] if len(views) > 1 else None

    def draw(self, square: np.ndarray, rng: np.random.Generator, zoom: float) -> list[np.ndarray]:
        """Apply the random part, then resize to each view: uint8 [S, S] or [S, S, 3]."""
        if zoom != 1.0:
            square = _magnify(square, zoom)
        if self._augment is not None:
            generator = random.Random(int(rng.integers(2**63)))
            # Albumentations would give every transform the same seed and so correlate brightness and rotation.
            for transform in (self._augment, *self._augment.transforms):
                transform.set_random_state(rng, generator)
            square = self._augment(image=square)["image"]
        return [_resize(square, view.image_size) for view in self.views]

    def normalised(self, drawn: Sequence[np.ndarray]) -> list[Tensor]:
        """Normalise the views of `draw`."""
        return [normalise(image, view) for image, view in zip(drawn, self.views, strict=True)]


def normalise(image: np.ndarray, preprocessing: Preprocessing) -> Tensor:
    """Map uint8 [S, S] or [S, S, 3] to float32 [3, S, S]: ``(pixel / 255 - mean) / std``, gray repeated."""
    table = _normalisation_table(preprocessing.mean, preprocessing.std)
    output = np.empty((3, *image.shape[:2]), dtype=np.float32)
    for channel in range(3):
        plane = image if image.ndim == 2 else np.ascontiguousarray(image[:, :, channel])
        cv2.LUT(plane, table[channel], dst=output[channel])
    return torch.from_numpy(output)


@cache
def _normalisation_table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return the normalised value of each of the 256 pixel values: [3, 256], float32 arithmetic as in torchvision."""
    pixels = torch.arange(256, dtype=torch.float32) / 255
    table: np.ndarray = ((pixels - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]).numpy()
    return table


def _compose(augmentation: Augmentation) -> A.Compose:
    geometry = A.Affine(
        rotate=(-augmentation.rotation_degrees, augmentation.rotation_degrees),
        translate_percent=(-augmentation.translation, augmentation.translation),
        interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_CONSTANT,
        fill=0,
        p=1.0,
    )
    # As torchvision's ColorJitter in the paper. RandomBrightnessContrast would turn black to grey.
    ranges = (augmentation.brightness, augmentation.contrast)
    return A.Compose([geometry, A.ColorJitter(*ranges, saturation=0.0, hue=0.0, p=1.0)])


def _magnify(square: np.ndarray, zoom: float) -> np.ndarray:
    """Scale about the centre on a canvas of the same size, with a black border."""
    side = len(square)
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), 0.0, zoom)
    return cv2.warpAffine(square, matrix, (side, side), flags=cv2.INTER_LINEAR)


def _resize(square: np.ndarray, side: int) -> np.ndarray:
    if len(square) == side:
        return square
    kernel = cv2.INTER_AREA if side < len(square) else cv2.INTER_CUBIC
    return cv2.resize(square, (side, side), interpolation=kernel)
