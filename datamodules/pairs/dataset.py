"""Training pairs from image files."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from datamodules.pairs.image_reading import read_image
from datamodules.pairs.sample import PairBuilder
from datamodules.pairs.stores import SquareCache, TeacherStore
from datamodules.record import Record

OnError = Literal["raise", "skip"]

_ATTEMPTS = 20


class PairDataset(Dataset):
    """Image-caption pairs, addressed by (epoch, index).

    A pair is a function of (seed, epoch, index) only: not of workers or of earlier reads.

    Args:
        records: The images.
        builder: Renders a pair.
        seed: Seed of augmentation and captions.
        on_error: With "skip", an unreadable image or an empty caption is replaced by another image drawn
            at random, and reported under ``skipped``.
        cache: Cache of decoded squares; None decodes every time.
        taught: Stored teacher embeddings of K draws: epoch e uses draw e modulo K, with its ``teacher_embedding``
            instead of an image and text for the teacher.
    """

    def __init__(
        self,
        records: list[Record],
        builder: PairBuilder,
        seed: int,
        on_error: OnError,
        cache: SquareCache | None = None,
        taught: TeacherStore | None = None,
    ) -> None:
        self.records = records
        self._builder = builder
        self._seed = seed
        self._on_error = on_error
        self._cache = cache
        self._taught = taught

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Return the pair of one epoch and index.

        Raises:
            ValueError: The image or its caption is bad (with "raise"), or 20 in a row are (with "skip").
            FileNotFoundError: The image file is missing (with "raise").
        """
        epoch, index = key
        kept: dict[str, Any] = {}
        if self._taught is not None:
            epoch %= self._taught.draws
            kept["teacher_embedding"] = self._taught.get(epoch, index)
        rng = np.random.default_rng([self._seed, epoch, index])
        skipped: list[tuple[str, int]] = []
        while len(skipped) < _ATTEMPTS:
            record = self.records[index]
            try:
                square, shape = (
                    self._decode(record)
                    if self._cache is None
                    else self._cache.get(index, record, self._decode)
                )
                sample = self._builder.from_square(record, square, shape, rng)
            except (ValueError, OSError) as error:
                if self._on_error == "raise":
                    raise
                skipped.append((str(error), 1))
                index = int(rng.integers(len(self.records)))
            else:
                return {**sample, **kept, "index": index, "skipped": skipped}
        raise ValueError(f"{_ATTEMPTS} unreadable samples in a row, the last: {skipped[-1][0]}")

    def _decode(self, record: Record) -> tuple[np.ndarray, tuple[int, int]]:
        image = read_image(record.image)
        return self._builder.prepare(image), (image.shape[0], image.shape[1])
