"""Dataset of benchmark images, prepared as in the published evaluation."""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from datamodules.cores import usable_cores
from datamodules.pairs.captions import SPACING, render_spacing
from datamodules.pairs.image_reading import image_size, read_image
from datamodules.pairs.sample import metadata
from datamodules.pairs.transforms import normalise
from datamodules.record import PackedRecords, Record
from models import Preprocessing
from models.preprocessing import resize_padded


class EvaluationDataset(Dataset):
    """Every `step`-th image from `first` on (rank and number of processes), each with its position in the whole list.

    An unreadable image is always an error: a score over fewer images is not comparable.
    """

    def __init__(
        self, records: list[Record], preprocessing: Preprocessing, first: int = 0, step: int = 1
    ) -> None:
        self.records = PackedRecords(records)
        self._indices = range(first, len(records), step)
        self._preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one prepared image [3, S, S], its record, its index and its original size."""
        index = self._indices[position]
        record = self.records[index]
        square, (height, width) = squares.of(record.image, self._preprocessing)
        image = normalise(square, self._preprocessing)
        return {"image": image, "record": record, "index": index, "width": width, "height": height}

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        """Return a batch's images; the main process reads them in threads, a worker one by one."""
        if get_worker_info() is not None:
            return [self[position] for position in positions]
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(self.__getitem__, positions))


class SquareMemory:
    """Decoded and resized images in memory, of at most `most` bytes together.

    Evaluations read the same images for several models and benchmarks and after every validation epoch, and for a
    small model decoding takes longer than embedding. What no longer fits is decoded each time.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.clear()

    def clear(self) -> None:
        """Forget all images."""
        self._bytes = 0
        self._kept: dict[Hashable, tuple[np.ndarray, tuple[int, int]]] = {}

    def of(self, path: Path, preprocessing: Preprocessing) -> tuple[np.ndarray, tuple[int, int]]:
        """Return an image as a square for a model (uint8 [S, S] or [S, S, 3]) and its original (height, width)."""
        if not path.is_file():
            read_image(path)  # raises with the words for it
        state = path.stat()
        key = path, state.st_mtime_ns, state.st_size, preprocessing.image_size, preprocessing.interpolation
        found = self._kept.get(key)
        if found is None:
            image = read_image(path)
            found = resize_padded(image, preprocessing), (image.shape[0], image.shape[1])
            if self._bytes + found[0].nbytes <= self.most:
                self._bytes += found[0].nbytes
                self._kept[key] = found
        return found


squares = SquareMemory(256 * 2**20)


def evaluation_workers(num_workers: int) -> int:
    """Return the number of worker processes for an evaluation: none if the model runs on the CPU.

    There, workers interrupt the encoder's threads: reading on all cores between two batches is faster.
    """
    return num_workers if torch.accelerator.is_available() else 0


def collate_evaluation(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack prepared images to the evaluation batch described in `datamodules.base`."""
    records = [sample["record"] for sample in samples]
    return {
        **{key: torch.tensor([sample[key] for sample in samples]) for key in ("index", "width", "height")},
        **metadata(records),
        "image": torch.stack([sample["image"] for sample in samples]),
        "patient": [record.patient for record in records],
    }


def printed_spacing(record: Record, preprocessing: Preprocessing) -> str:
    """Return a record's pixel spacing at the model's resolution as prompts print it: ``"0.42"``."""
    if record.pixel_size_mm is None:
        raise ValueError(f"{record.name}: no pixel size, which gestational age needs")
    return render_spacing(SPACING, image_size(record.image), preprocessing.image_size, record.pixel_size_mm)
