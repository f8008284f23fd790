"""Training pairs from image files."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from datamodules.image_reading import read_image
from datamodules.pair_sample import PairBuilder
from datamodules.record import Record

OnError = Literal["raise", "skip"]

_ATTEMPTS = 20


class PairDataset(Dataset):
    """Image-caption pairs, addressed by (epoch, index).

    A pair depends on nothing but (seed, epoch, index): not on workers, not on what was read before.

    Args:
        records: The images.
        builder: Renders a pair.
        seed: Of augmentation and captions.
        on_error: With "skip", an unreadable image or an empty caption is replaced by another image drawn
            at random, and the batch says so under ``skipped``.
    """

    def __init__(self, records: list[Record], builder: PairBuilder, seed: int, on_error: OnError) -> None:
        self.records = records
        self._builder = builder
        self._seed = seed
        self._on_error = on_error

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Return the pair of one epoch and index.

        Raises:
            ValueError: The image or its caption is bad (with "raise"), or so are 20 in a row (with "skip").
            FileNotFoundError: The image file is gone (with "raise").
        """
        epoch, index = key
        rng = np.random.default_rng([self._seed, epoch, index])
        skipped: list[str] = []
        while len(skipped) < _ATTEMPTS:
            record = self.records[index]
            try:
                sample = self._builder(record, read_image(record.image), rng)
            except (ValueError, OSError) as error:
                if self._on_error == "raise":
                    raise
                skipped.append(str(error))
                index = int(rng.integers(len(self.records)))
            else:
                return {**sample, "index": index, "skipped": skipped}
        raise ValueError(f"{_ATTEMPTS} unreadable samples in a row, the last: {skipped[-1]}")
