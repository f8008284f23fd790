"""From one image and its record to a training pair, and from pairs to a batch."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.captions import caption_templates, render_spacing
from datamodules.record import Record
from datamodules.transforms import Augmentation, TwoViewTransform
from models import Preprocessing, build_tokenizer


class PairBuilder:
    """Render one image's views and choose its caption.

    Args:
        student: The student's preprocessing.
        teacher: The teacher's preprocessing, or None without a teacher.
        augmentation: Random changes of the image, or None for none.
        student_only: Build the student's side alone, of the very pairs that a teacher would see too.
    """

    def __init__(
        self,
        student: Preprocessing,
        teacher: Preprocessing | None,
        augmentation: Augmentation | None,
        student_only: bool = False,
    ) -> None:
        self.student = student
        self.teacher = None if student_only else teacher
        self._transform = TwoViewTransform(student, teacher, augmentation, student_only)

    def __call__(self, record: Record, image: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        """Build a pair from a decoded image (uint8 [H, W] or [H, W, 3]); `rng` is all its randomness.

        Raises:
            ValueError: The record's caption is empty, or there is nothing to write one from.
        """
        return self.from_square(record, self.prepare(image), image.shape[:2], rng)

    @property
    def working_side(self) -> int:
        """Largest side of the squares that `prepare` gives, in pixels."""
        return self._transform.working_side

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Do what is the same in every epoch; what `square_cache` keeps."""
        return self._transform.prepare(image)

    def from_square(
        self,
        record: Record,
        square: np.ndarray,
        shape: tuple[int, ...],
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """Build a pair from what `prepare` gave and the (height, width) of the original; see `__call__`."""
        template = _draw_template(record, rng)
        zoom = self._transform.draw_zoom(rng)
        student_image, teacher_image = self._transform.render(square, rng, zoom)
        sample = {
            "record": record,
            "student_image": student_image,
            "student_text": _text(template, record, shape, self.student, zoom),
        }
        if self.teacher is not None:
            sample["teacher_image"] = teacher_image
            sample["teacher_text"] = _text(template, record, shape, self.teacher, zoom)
        return sample


class PairCollate:
    """Stack pairs to a training batch and tokenise their captions.

    Args:
        student: The student's preprocessing.
        teacher: The teacher's preprocessing, or None without a teacher.
    """

    def __init__(self, student: Preprocessing, teacher: Preprocessing | None) -> None:
        self.student = student
        self.teacher = teacher

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch that `datamodules.base` describes."""
        texts = [sample["student_text"] for sample in samples]
        batch: dict[str, Any] = {
            "student_image": torch.stack([sample["student_image"] for sample in samples]),
            "student_tokens": _tokenise(texts, self.student),
            "caption_id": torch.tensor([caption_id(text) for text in texts], dtype=torch.int64),
            "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
            "skipped": [bad for sample in samples for bad in sample["skipped"]],
            **metadata([sample["record"] for sample in samples]),
        }
        if "teacher_embedding" in samples[0]:
            batch["teacher_embedding"] = torch.stack([sample["teacher_embedding"] for sample in samples])
        elif self.teacher is not None:
            teacher_texts = [sample["teacher_text"] for sample in samples]
            batch["teacher_image"] = torch.stack([sample["teacher_image"] for sample in samples])
            shared = texts == teacher_texts and _same_tokens(self.student, self.teacher)
            batch["teacher_tokens"] = (
                batch["student_tokens"] if shared else _tokenise(teacher_texts, self.teacher)
            )
        return batch


def metadata(records: list[Record]) -> dict[str, Any]:
    """Return what batches say of their images: ``""`` and NaN where the corpus does not know."""
    return {
        "name": [record.name for record in records],
        "plane": [record.plane or "" for record in records],
        "brain_plane": [record.brain_plane or "" for record in records],
        "hc_mm": _numbers([record.hc_mm for record in records]),
        "pixel_size_mm": _numbers([record.pixel_size_mm for record in records]),
    }


def caption_id(text: str) -> int:
    """Return a 64-bit signed hash of a caption, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def fixed_caption(
    record: Record, shape: tuple[int, ...], preprocessing: Preprocessing, seed: int, index: int
) -> str:
    """Return the caption that an un-augmented pair of validation or test has, for one model.

    Args:
        record: The image.
        shape: Its height and width in pixels.
        preprocessing: The model's contract; the spacing depends on its image size.
        seed: The data module's.
        index: Place of the record in its split.

    Raises:
        ValueError: The record's caption is empty, or there is nothing to write one from.
    """
    rng = np.random.default_rng([seed, 0, index])
    return _text(_draw_template(record, rng), record, shape, preprocessing, 1.0)


def _draw_template(record: Record, rng: np.random.Generator) -> str:
    templates = caption_templates(record)
    return templates[int(rng.integers(len(templates)))]


def _numbers(values: list[float | None]) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float32)


def _text(
    template: str, record: Record, shape: tuple[int, ...], preprocessing: Preprocessing, zoom: float
) -> str:
    height, width = shape
    pixel_size_mm = None if record.pixel_size_mm is None else record.pixel_size_mm / zoom
    return render_spacing(
        template,
        width=width,
        height=height,
        image_size=preprocessing.image_size,
        pixel_size_mm=pixel_size_mm,
    )


def _same_tokens(one: Preprocessing, other: Preprocessing) -> bool:
    return (one.tokenizer, one.context_length) == (other.tokenizer, other.context_length)


def _tokenise(texts: list[str], preprocessing: Preprocessing) -> Tensor:
    return torch.stack([_tokens(text, preprocessing) for text in texts])


@lru_cache(maxsize=32768)
def _tokens(text: str, preprocessing: Preprocessing) -> Tensor:
    """Tokenise one caption, [L]; templates repeat, and byte-pair encoding is slow."""
    return build_tokenizer(preprocessing)([text])[0]
