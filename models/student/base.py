"""Base class of a trained student: predicted planes and ages. No PyTorch import: export folders need none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.special import softmax

from metrics.benchmarks import BENCHMARKS, PLANES, SUBPLANES
from metrics.calibration import max_minus_mean_logit, profile_age_days, profile_interval
from models.preprocessing import PIXEL_SIZE_MM, Preprocessing, input_spacing, resize_padded
from models.student.onnx_files import SpacingNotInTableError

DEFAULT_PROMPTS = Path(__file__).parent.parent / "text" / "prompts.json"
ANSWERS = "answers"
"""Key of a `Calibration` in checkpoints and in an export's manifest."""
OWN_CLASSES = "own_classes"
"""Key of the user's own benchmarks in checkpoints: benchmark -> class -> prompts."""
NONE, BRAIN = "none", "brain"
UNEQUAL = "pixel_size_mm: not as many as there are images; give one number for all, or one for each image"
BATCH_SIZE = 32
"""Images of one call of the model."""
SMALLEST_SPACING = 0.005
"""In mm: prompts state two decimals."""

Floats = NDArray[np.floating[Any]]
Row = dict[str, Any]
Picture = NDArray[np.uint8] | Image.Image


@dataclass(frozen=True)
class Calibration:
    """Rejection thresholds and age-interval width, calibrated on validation patients for one prompt file.

    Attributes:
        prompts: Content of the prompt file.
        none_below: Benchmark -> threshold of `metrics.calibration.max_minus_mean_logit`; an image below is "none".
        age_drop: Similarity below the highest that the interval of the gestational age admits; None without one.
        coverage: Share of patients whose true age such intervals contain.
        counts: Numbers of validation images of each threshold, and of patients of the interval.
    """

    prompts: dict[str, Any]
    none_below: dict[str, float]
    age_drop: float | None
    coverage: float
    counts: dict[str, Any]


class Student(ABC):
    """A trained student. `models.load_student` opens one.

    Images are uint8 arrays, [H, W] or RGB [H, W, 3], of any sizes, or Pillow images, which are turned upright by their
    EXIF orientation; any iterable of them.

    Attributes:
        preprocessing: The contract of its images.
        classes: Benchmark -> class names and unit-length class vectors [C, D].
        calibration: Its thresholds; None without a calibration for its prompts: then no answer is ``none`` and ages
            have no interval.
    """

    preprocessing: Preprocessing
    classes: Mapping[str, tuple[Sequence[str], Floats]]
    calibration: Calibration | None
    cosine_scale: float

    @abstractmethod
    def embed_pixels(self, pixels: NDArray[np.uint8]) -> Floats:
        """Embed prepared RGB images [N, S, S, 3]: unit-length [N, D], float32."""

    @abstractmethod
    def age_vectors(self, spacing: float) -> tuple[float, NDArray[np.int64], Floats]:
        """Return the spacing in use for an input's spacing (mm), the ages in days [A] and their vectors [A, D]."""

    def embed(self, images: Iterable[Picture]) -> Floats:
        """Embed N images: unit-length [N, D], float32."""
        parts = [self._embed(batch) for batch in batches(images)]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)

    def planes(self, images: Iterable[Picture]) -> list[Row]:
        """Classify images: for each ``plane``, ``plane_probability`` and ``plane_CLASS``; see `classify`."""
        return [row for batch in batches(images) for row in self.classify(self._embed(batch))]

    def gestational_age(self, images: Iterable[Picture], pixel_size_mm: float | Iterable[float]) -> list[Row]:
        """Estimate the age of fetal heads: for each ``ga_days``, and with a calibration its interval; see `ages`.

        Args:
            images: N images of a head, in a plane where its circumference is measured.
            pixel_size_mm: Side of an original pixel, one for all or N.

        Raises:
            ValueError: There are not as many sizes as images, or one is not within `PIXEL_SIZE_MM`.
            SpacingNotInTableError: The spacing of an image's input is not in the age table of an export, or is below
                `SMALLEST_SPACING`. The other images get no answer either: ask image by image to tell them apart.
        """
        sizes = iter(pixel_size_mm) if isinstance(pixel_size_mm, Iterable) else None
        rows: list[Row] = []
        for batch in batches(images):
            own = [pixel_size_mm] * len(batch) if sizes is None else list(islice(sizes, len(batch)))
            if len(own) < len(batch):
                raise ValueError(UNEQUAL)
            spacings = [self.spacing(size_of(one), size) for one, size in zip(batch, own, strict=True)]
            rows += self.ages(self._embed(batch), spacings)
        if sizes is not None and any(True for _ in sizes):
            raise ValueError(UNEQUAL)
        return rows

    def saliency(self, images: Iterable[Picture], prompt: str | None = None) -> Floats:  # noqa: ARG002
        """Return where the similarity with a prompt comes from: Grad-CAM maps [N, S, S] in [0, 1] of padded images.

        Args:
            images: N images.
            prompt: A text; None for the prompts of each image's own predicted plane.

        Raises:
            ValueError: It is an export, which has no gradients; or no prompt is given, and there are no classes.
        """
        raise ValueError("saliency needs gradients: give the checkpoint that the export was made from")

    @property
    def dimension(self) -> int:
        """Dimension D of the embeddings."""
        return int(next(iter(self.classes.values()))[1].shape[1])

    def _embed(self, images: Sequence[Picture]) -> Floats:
        return self.embed_pixels(np.stack([self.prepare(image) for image in images]))

    def prepare(self, image: Picture) -> NDArray[np.uint8]:
        """Pad and resize one image to the model's input: uint8 [S, S, 3]."""
        resized = resize_padded(as_array(image), self.preprocessing)
        planes = resized if resized.ndim == 3 else resized[:, :, None]
        return np.broadcast_to(planes, (*resized.shape[:2], 3))

    def spacing(self, size: tuple[int, int], pixel_size_mm: Any) -> float:
        """Return the pixel spacing of the model's input, in mm, for an original of (width, height).

        Raises:
            ValueError: The pixel size is not a number within `PIXEL_SIZE_MM`.
        """
        least, largest = PIXEL_SIZE_MM
        try:
            found = float(pixel_size_mm)
        except (TypeError, ValueError):
            found = 0.0
        if not least <= found <= largest:
            raise ValueError(
                f"pixel size {pixel_size_mm!r}: expected millimetres, from {least:g} to {largest:g}"
            )
        return input_spacing(size, self.preprocessing.image_size, found)

    def classify(self, embeddings: Floats) -> list[Row]:
        """Return the classes of embedded images [N, D], a dictionary each.

        Keys are those of the table columns: ``plane`` (or ``none``), ``plane_probability``, ``plane_CLASS`` for each
        class (of the class "probability" ``plane_probability_class``); for brain images also ``brain_plane`` and so
        on, else None. Probabilities are softmax(100 * cosine).
        """
        rows: list[Row] = [{} for _ in embeddings]
        for benchmark, (labels, vectors) in self.classes.items():
            known = BENCHMARKS.get(benchmark)
            key = benchmark if known is None or known.own else known.label
            logits = self.cosine_scale * embeddings.astype(np.float32) @ vectors.T
            probabilities = softmax(logits.astype(np.float64), axis=1)
            lowest = None if self.calibration is None else self.calibration.none_below.get(benchmark)
            for row, lead, own in zip(rows, max_minus_mean_logit(logits), probabilities, strict=True):
                best = int(own.argmax())
                answer = NONE if lowest is not None and lead < lowest else labels[best]
                values = {key: answer, f"{key}_probability": float(own[best])}
                for label, probability in zip(labels, own, strict=True):
                    name = f"{key}_{label}"
                    while name in values:
                        name += "_class"
                    values[name] = float(probability)
                asked = benchmark != SUBPLANES or row.get(BENCHMARKS[PLANES].label, BRAIN) == BRAIN
                row.update(values if asked else dict.fromkeys(values))
        return rows

    def ages(self, embeddings: Floats, spacings: Sequence[float]) -> list[Row]:
        """Return the gestational ages of embedded heads [N, D] at the spacings of their inputs (mm).

        A dictionary each: ``ga_days``, ``ga`` (as text), ``ga_low_days``, ``ga_high_days`` and ``ga_coverage`` (share
        of patients whose interval contains the true age; None without a calibration), ``ga_spacing_mm`` (row of the
        age table that was used).

        Raises:
            SpacingNotInTableError: A spacing is not in the age table of an export, or below `SMALLEST_SPACING`.
        """
        if tiny := [spacing for spacing in spacings if spacing < SMALLEST_SPACING]:
            raise SpacingNotInTableError(
                f"pixel spacing {tiny[0]:.2g} mm of the model's input: there are no ages below 0.01 mm"
            )
        rows = []
        drop = None if self.calibration is None else self.calibration.age_drop
        for embedding, spacing in zip(embeddings, spacings, strict=True):
            used, days, vectors = self.age_vectors(spacing)
            similarity = self.cosine_scale * (vectors @ embedding.astype(np.float32))[None]
            age = int(profile_age_days(similarity, days)[0])
            row: Row = {"ga_days": age, "ga": f"{age // 7} w {age % 7} d"}
            row |= dict.fromkeys(("ga_low_days", "ga_high_days", "ga_coverage"))
            if drop is not None and self.calibration is not None:
                low, high = profile_interval(similarity, days, drop)
                row["ga_low_days"], row["ga_high_days"] = int(min(low[0], age)), int(max(high[0], age))
                row["ga_coverage"] = self.calibration.coverage
            rows.append(row | {"ga_spacing_mm": used})
        return rows


def batches(images: Iterable[Picture], size: int = BATCH_SIZE) -> Iterator[list[Picture]]:
    """Yield lists of at most `size` images."""
    if isinstance(images, np.ndarray | Image.Image | str | Path):
        raise ValueError("images: give a list of images, [image], not one image or a path")
    left = iter(images)
    while batch := list(islice(left, size)):
        yield batch


def as_array(image: Any) -> NDArray[np.uint8]:
    """Return an image as uint8 [H, W] or RGB [H, W, 3]."""
    if isinstance(image, Image.Image):
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise ValueError(
                f"image of mode {image.mode}: open files with datamodules.pairs.image_reading.read_image"
            )
        if "exif" in image.info:  # as `read_image`: Pillow turns a TIFF by itself
            with suppress(
                Exception
            ):  # Pillow's parser raises many kinds for damaged EXIF; the pixels are whole
                image = ImageOps.exif_transpose(image)
        image = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(
            f"image: expected uint8 [H, W] or RGB [H, W, 3], not {array.dtype} {list(array.shape)}; "
            "datamodules.pairs.image_reading.read_image reads files"
        )
    return array


def size_of(image: Picture) -> tuple[int, int]:
    """Return (width, height) in pixels."""
    if isinstance(image, Image.Image):
        return image.size
    return int(image.shape[1]), int(image.shape[0])
