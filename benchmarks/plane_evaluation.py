"""Plane evaluation: batches of 16 decoded serially against decoding in workers, and the encoder's own speed.

The workers' start is left out (it is once in 8,187 images): the clock starts when the first batch is embedded.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks._material import head_records, published_student
from benchmarks._record import Row, command, make_row
from benchmarks.baselines import evaluation_authors
from datamodules.evaluation_dataset import EvaluationDataset, collate_evaluation
from datamodules.record import Record
from models import DualEncoder

BATCH = 16


@torch.no_grad()
def ours(model: DualEncoder, records: list[Record], workers: int) -> float:
    """Return images a second after the first batch."""
    loader = DataLoader(
        EvaluationDataset(records, model.preprocessing),
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=collate_evaluation,
    )
    started, images = 0.0, 0
    for number, batch in enumerate(loader):
        model.encode_image(batch["image"])
        if number == 0:
            started = time.perf_counter()
        else:
            images += len(batch["index"])
    return images / (time.perf_counter() - started)


@torch.no_grad()
def encoder_alone(model: DualEncoder, batches: list[torch.Tensor]) -> float:
    started = time.perf_counter()
    for images in batches:
        model.encode_image(images)
    return sum(map(len, batches)) / (time.perf_counter() - started)


def authors(model: DualEncoder, records: list[Record]) -> float:
    started = time.perf_counter()
    evaluation_authors.embed_images(model, [str(record.image) for record in records])
    return len(records) / (time.perf_counter() - started)


def measure(quick: bool) -> list[Row]:
    count, rounds, workers = (48, 2, 1) if quick else (112, 5, os.cpu_count() or 1)
    model = published_student(quick)
    with tempfile.TemporaryDirectory() as folder:
        records, what = head_records(Path(folder), count)
        dataset = EvaluationDataset(records[:BATCH], model.preprocessing)
        ready = [torch.stack([dataset[i]["image"] for i in range(BATCH)])] * (count // BATCH - 1)
        encoder_alone(model, ready[:1])
        rates: dict[str, list[float]] = {"authors": [], "ours": [], "encoder": []}
        for _ in range(rounds):
            rates["authors"].append(authors(model, records[BATCH:]))
            rates["ours"].append(ours(model, records, workers))
            rates["encoder"].append(encoder_alone(model, ready))
    speed = {name: np.array(values) for name, values in rates.items()}
    seconds = {name: 8187 / values for name, values in speed.items()}
    case = f"student, 8,187 images, {workers} workers"
    note = f"{count - BATCH} images a round ({what}), float32, scaled"
    return [
        make_row(
            "plane evaluation",
            case,
            "of the encoder's own throughput",
            speed["ours"] / speed["encoder"],
            target=0.9,
            seconds=seconds,
            limit="the encoder alone",
            limit_values=speed["encoder"] / speed["ours"],
            note=note,
        ),
        make_row(
            "plane evaluation",
            case,
            "times faster than batches of 16 decoded serially",
            speed["ours"] / speed["authors"],
            seconds=seconds,
            note=note,
        ),
    ]


if __name__ == "__main__":
    command("plane_evaluation", measure, __doc__)
