"""Images of a benchmark, prepared exactly as the published evaluation prepares them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from datamodules.image_reading import read_image
from datamodules.pair_sample import metadata
from datamodules.record import Record
from datamodules.transforms import EvaluationTransform
from models import Preprocessing


class EvaluationDataset(Dataset):
    """Every `step`-th image from `first` on, each with its place in the whole list.

    An unreadable image is always an error here: a score over fewer images is another score.

    Args:
        records: All images of the benchmark's split.
        preprocessing: The contract of the model to be evaluated.
        first: Rank of this process.
        step: Number of processes.
    """

    def __init__(
        self, records: list[Record], preprocessing: Preprocessing, first: int = 0, step: int = 1
    ) -> None:
        self.records = records
        self._indices = range(first, len(records), step)
        self._transform = EvaluationTransform(preprocessing)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one prepared image [3, S, S], its record, its index and its original size."""
        index = self._indices[position]
        image = read_image(self.records[index].image)
        height, width = image.shape[:2]
        return {
            "image": self._transform(image),
            "record": self.records[index],
            "index": index,
            "width": width,
            "height": height,
        }

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        """Return a batch's images; where no reading process is at work, this one's cores read them together."""
        if get_worker_info() is not None:
            return [self[position] for position in positions]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self.__getitem__, positions))


def evaluation_workers(num_workers: int) -> int:
    """Return how many processes read for an evaluation: none where the models run on the processors that they need.

    There, reading between two batches on all cores is faster than beside them: each interruption of one of the
    encoder's threads holds up the others.
    """
    return num_workers if torch.accelerator.is_available() else 0


def collate_evaluation(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack prepared images to the evaluation batch that `datamodules.base` describes."""
    records = [sample["record"] for sample in samples]
    batch: dict[str, Any] = {
        key: torch.tensor([sample[key] for sample in samples], dtype=torch.int64)
        for key in ("index", "width", "height")
    }
    return {
        **batch,
        **metadata(records),
        "image": torch.stack([sample["image"] for sample in samples]),
        "patient": [record.patient for record in records],
    }
