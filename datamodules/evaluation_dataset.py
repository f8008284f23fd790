"""Images of a benchmark, prepared exactly as the published evaluation prepares them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

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
