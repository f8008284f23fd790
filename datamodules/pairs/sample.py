"""Build a training pair from an image and its record, and a batch from pairs."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.pairs.captions import caption_templates, render_spacing
from datamodules.pairs.transforms import Augmentation, TwoViewTransform
from datamodules.record import Record
from models import Preprocessing, build_tokenizer


class PairBuilder:
    """Render one image's views and choose its caption.

    Args:
        student: The student's preprocessing.
        teacher: The teacher's preprocessing, or None without a teacher.
        augmentation: Random changes of the image, or None for none.
        student_only: Build only the student's side, of the same pairs that a teacher would see too.
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
        self.working_side = self._transform.working_side
        self.prepare = self._transform.prepare

    def __call__(self, record: Record, image: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        """Build a pair from a decoded image (uint8 [H, W] or [H, W, 3]); `rng` is the only source of randomness.

        Raises:
            ValueError: The record's caption is empty, or it has nothing to write one from.
        """
        return self.from_square(record, self.prepare(image), image.shape[:2], rng)

    def from_square(
        self,
        record: Record,
        square: np.ndarray,
        shape: tuple[int, ...],
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """Build a pair from the output of `prepare` and the (height, width) of the original; see `__call__`."""
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
            one, other = ((view.tokenizer, view.context_length) for view in (self.student, self.teacher))
            shared = texts == teacher_texts and one == other
            batch["teacher_tokens"] = (
                batch["student_tokens"] if shared else _tokenise(teacher_texts, self.teacher)
            )
        return batch


def metadata(records: list[Record]) -> dict[str, Any]:
    """Return the metadata of a batch: ``""`` and NaN where unknown."""
    return {
        **{
            key: [getattr(record, key) or "" for record in records]
            for key in ("name", "plane", "brain_plane")
        },
        **{
            key: torch.tensor(
                [math.nan if (value := getattr(record, key)) is None else value for record in records],
                dtype=torch.float32,
            )
            for key in ("hc_mm", "pixel_size_mm")
        },
    }


def caption_id(text: str) -> int:
    """Return a 64-bit signed hash of a caption, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def fixed_caption(
    record: Record, shape: tuple[int, ...], preprocessing: Preprocessing, seed: int, index: int
) -> str:
    """Return the caption of an unaugmented validation or test pair for one model.

    Args:
        record: The image.
        shape: Its height and width in pixels.
        preprocessing: The model's contract; the spacing depends on its image size.
        seed: Seed of the data module.
        index: Position of the record in its split.

    Raises:
        ValueError: The record's caption is empty, or it has nothing to write one from.
    """
    rng = np.random.default_rng([seed, 0, index])
    return _text(_draw_template(record, rng), record, shape, preprocessing, 1.0)


def _draw_template(record: Record, rng: np.random.Generator) -> str:
    templates = caption_templates(record)
    return templates[int(rng.integers(len(templates)))]


def _text(
    template: str, record: Record, shape: tuple[int, ...], preprocessing: Preprocessing, zoom: float
) -> str:
    return render_spacing(
        template,
        width=shape[1],
        height=shape[0],
        image_size=preprocessing.image_size,
        pixel_size_mm=None if record.pixel_size_mm is None else record.pixel_size_mm / zoom,
    )


def _tokenise(texts: list[str], preprocessing: Preprocessing) -> Tensor:
    return torch.stack([_tokens(text, preprocessing) for text in texts])


@lru_cache(maxsize=32768)
def _tokens(text: str, preprocessing: Preprocessing) -> Tensor:
    """Tokenise one caption, [L]; cached because templates repeat and byte-pair encoding is slow."""
    return build_tokenizer(preprocessing)([text])[0]
