"""Dataset of benchmark images, prepared as in the published evaluation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from datamodules.cores import usable_cores
from datamodules.pairs.captions import SPACING, render_spacing
from datamodules.pairs.image_reading import image_size, read_image
from datamodules.pairs.sample import metadata
from datamodules.pairs.transforms import EvaluationTransform
from datamodules.record import PackedRecords, Record
from models import Preprocessing


class EvaluationDataset(Dataset):
    """Every `step`-th image from `first` on (rank and number of processes), each with its position in the whole list.

    An unreadable image is always an error: a score over fewer images is not comparable.
    """

    def __init__(
        self, records: list[Record], preprocessing: Preprocessing, first: int = 0, step: int = 1
    ) -> None:
        self.records = PackedRecords(records)
        self._indices = range(first, len(records), step)
        self._transform = EvaluationTransform(preprocessing)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one prepared image [3, S, S], its record, its index and its original size."""
        index = self._indices[position]
        record = self.records[index]
        image = read_image(record.image)
        height, width = image.shape[:2]
        return {
            "image": self._transform(image), "record": record, "index": index, "width": width, "height": height,
        }  # fmt: skip

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        """Return a batch's images; the main process reads them in threads, a worker one by one."""
        if get_worker_info() is not None:
            return [self[position] for position in positions]
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(self.__getitem__, positions))


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
