"""Training pairs from image files: one pair, a dataset of them, and a batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.pairs.captions import caption_templates, render_spacing
from datamodules.pairs.image_reading import read_image
from datamodules.pairs.stores import Square, SquareCache, TeacherStore
from datamodules.pairs.transforms import TwoViewTransform
from datamodules.record import PackedRecords, Record
from models import Preprocessing, build_tokenizer

OnError = Literal["raise", "skip"]

_ATTEMPTS = 20


ViewsOf = Callable[[float], tuple[list[np.ndarray], tuple[int, int]]]
"""Zoom -> views of `TwoViewTransform.draw`, and (height, width) of the original."""


class PairBuilder(TwoViewTransform):
    """Render an image's views, choose its caption, and collate such pairs."""

    def pair(self, record: Record, image: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        """Build a pair from a decoded image (uint8 [H, W] or [H, W, 3]); `rng` is the only source of randomness."""
        shape = image.shape[0], image.shape[1]
        return self.build(record, rng, lambda zoom: (self.draw(self.prepare(image), rng, zoom), shape))

    def build(self, record: Record, rng: np.random.Generator, views_of: ViewsOf) -> dict[str, Any]:
        """Build a pair from the views that `views_of` gives at the zoom drawn here; see `pair`."""
        template = _draw_template(record, rng)
        zoom = self.draw_zoom(rng)
        drawn, shape = views_of(zoom)
        sample: dict[str, Any] = {"record": record}
        for side, view, image in zip(
            ("student", "teacher"), self.views, self.normalised(drawn), strict=False
        ):
            sample[f"{side}_image"] = image
            sample[f"{side}_text"] = _text(template, record, shape, view, zoom)
        return sample

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack pairs to the batch that `datamodules.base` describes, and tokenise their captions."""
        student, teacher = self.views[0], self.views[-1]
        texts = [sample["student_text"] for sample in samples]
        batch: dict[str, Any] = {
            "student_image": torch.stack([sample["student_image"] for sample in samples]),
            "student_tokens": _tokenise(texts, student),
            "caption_id": torch.tensor([text_id(text) for text in texts], dtype=torch.int64),
            "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
            "skipped": [bad for sample in samples for bad in sample["skipped"]],
            **metadata([sample["record"] for sample in samples]),
        }
        if all(sample["record"].plane for sample in samples):
            batch["class_id"] = torch.tensor(
                [class_id(sample["record"]) for sample in samples], dtype=torch.int64
            )
        if "teacher_embedding" in samples[0]:
            batch["teacher_embedding"] = torch.stack([sample["teacher_embedding"] for sample in samples])
        if "teacher_image" in samples[0]:
            theirs = [sample["teacher_text"] for sample in samples]
            batch["teacher_image"] = torch.stack([sample["teacher_image"] for sample in samples])
            one, other = ((view.tokenizer, view.context_length) for view in (student, teacher))
            shared = texts == theirs and one == other
            batch["teacher_tokens"] = batch["student_tokens"] if shared else _tokenise(theirs, teacher)
        return batch


@dataclass(eq=False)
class PairDataset(Dataset):
    """Image-caption pairs, addressed by (epoch, index).

    A pair is a function of (seed, epoch, index) only: not of workers or of earlier reads.

    Attributes:
        on_error: With "skip", an unreadable image or an empty caption is replaced by another image drawn
            at random, and reported under ``skipped``.
        cache: Cache of decoded squares; None decodes every time.
        pictures: Cache of the student's views of all draws; None draws them every time.
        draws: Epoch e uses draw e modulo `draws`; None: a new draw in every epoch.
        teacher_store: Stored teacher embeddings of these draws: pairs have a ``teacher_embedding`` instead of an image
            and text for the teacher.
    """

    records: Sequence[Record]
    builder: PairBuilder
    seed: int
    on_error: OnError
    cache: SquareCache | None = None
    pictures: SquareCache | None = None
    draws: int | None = None
    teacher_store: TeacherStore | None = None

    def __post_init__(self) -> None:
        self.records = PackedRecords(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Return the pair of one epoch and index; with "skip", 20 bad ones in a row are a ValueError."""
        epoch, index = key
        kept: dict[str, Any] = {}
        if self.draws is not None:
            epoch %= self.draws
        if self.teacher_store is not None:
            kept["teacher_embedding"] = self.teacher_store.get(epoch, index)
        rng = np.random.default_rng([self.seed, epoch, index])
        skipped: list[tuple[str, int]] = []
        while len(skipped) < _ATTEMPTS:
            record = self.records[index]
            try:
                # Not of a replacement, whose picture depends on the image that it replaces.
                pictures = None if skipped else self.pictures
                views_of = partial(self._views, pictures, index, epoch, record, rng)
                sample = self.builder.build(record, rng, views_of)
            except (ValueError, OSError) as error:
                if self.on_error == "raise":
                    raise
                skipped.append((str(error), 1))
                index = int(rng.integers(len(self.records)))
            else:
                return {**sample, **kept, "index": index, "skipped": skipped}
        raise ValueError(f"{_ATTEMPTS} unreadable samples in a row, the last: {skipped[-1][0]}")

    def _views(
        self,
        pictures: SquareCache | None,
        index: int,
        draw: int,
        record: Record,
        rng: np.random.Generator,
        zoom: float,
    ) -> tuple[list[np.ndarray], tuple[int, int]]:
        """Draw the views of a pair, or read the student's where it is kept and the only one."""

        def drawn() -> tuple[list[np.ndarray], tuple[int, int]]:
            square, shape = self._square(index, record)
            return self.builder.draw(square, rng, zoom), shape

        def students_view() -> Square:
            views, shape = drawn()
            return views[0], shape

        if pictures is None:
            return drawn()
        if len(self.builder.views) == 1:
            view, shape = pictures.get(index, draw, students_view, zoom)
            return [view], shape
        views, shape = drawn()
        pictures.put(index, draw, views[0], shape, zoom)
        return views, shape

    def _square(self, index: int, record: Record) -> Square:
        def decoded() -> Square:
            image = read_image(record.image)
            return self.builder.prepare(image), (image.shape[0], image.shape[1])

        return decoded() if self.cache is None else self.cache.get(index, 0, decoded)


def metadata(records: list[Record]) -> dict[str, Any]:
    """Return the metadata of a batch: ``""`` and NaN where unknown."""
    texts = {key: [getattr(r, key) or "" for r in records] for key in ("name", "plane", "brain_plane")}
    numbers = {key: [getattr(r, key) or math.nan for r in records] for key in ("hc_mm", "pixel_size_mm")}
    return {**texts, **{key: torch.tensor(values, dtype=torch.float32) for key, values in numbers.items()}}


def class_id(record: Record) -> int:
    """Return a `text_id` of an image's plane and sub-plane, equal for images of the same class."""
    return text_id(repr((record.plane, record.brain_plane)))


def text_id(text: str) -> int:
    """Return a 64-bit signed hash of a text, the same in every process and on every machine."""
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
    """
    rng = np.random.default_rng([seed, 0, index])
    return _text(_draw_template(record, rng), record, shape, preprocessing, 1.0)


def _draw_template(record: Record, rng: np.random.Generator) -> str:
    templates = caption_templates(record)
    return templates[int(rng.integers(len(templates)))]


def _text(
    template: str, record: Record, shape: tuple[int, ...], preprocessing: Preprocessing, zoom: float
) -> str:
    pixel_size_mm = None if record.pixel_size_mm is None else record.pixel_size_mm / zoom
    return render_spacing(template, (shape[1], shape[0]), preprocessing.image_size, pixel_size_mm)


def _tokenise(texts: list[str], preprocessing: Preprocessing) -> Tensor:
    return torch.stack([_tokens(text, preprocessing) for text in texts])


@lru_cache(maxsize=32768)
def _tokens(text: str, preprocessing: Preprocessing) -> Tensor:
    """Tokenise one caption, [L]; cached because templates repeat and byte-pair encoding is slow."""
    return build_tokenizer(preprocessing)([text])[0]
