"""Plane evaluation: batches of 16 decoded serially against decoding in workers, and the encoder's own speed.

Start and end are left out, as they come once in 8,187 images: the clock starts when the first batch is embedded,
and stops while the workers still decode. So each timed batch is embedded beside the decoding of another one.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks._material import head_records, phantom_towers, published_student
from benchmarks._record import Row, command, make_row
from benchmarks.baselines import evaluation_authors
from datamodules.evaluation_dataset import EvaluationDataset, collate_evaluation
from datamodules.record import Record
from models import DualEncoder

BATCH = 4  # small, so that few images make many batches
PREFETCH = 2  # batches that a worker decodes ahead


@torch.no_grad()
def ours(model: DualEncoder, records: list[Record], workers: int) -> tuple[float, int]:
    """Return images a second while the workers decode, and the number of images timed."""
    loader = DataLoader(
        EvaluationDataset(records, model.preprocessing),
        batch_size=BATCH,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        collate_fn=collate_evaluation,
    )
    timed = len(loader) - 1 - workers * PREFETCH
    ends: list[float] = []
    for batch in loader:
        model.encode_image(batch["image"])
        ends.append(time.perf_counter())
        if len(ends) > timed:
            break
    return timed * BATCH / (ends[-1] - ends[0]), timed * BATCH


@torch.no_grad()
def encoder_alone(model: DualEncoder, batches: list[torch.Tensor]) -> float:
    started = time.perf_counter()
    for images in batches:
        model.encode_image(images)
    return sum(map(len, batches)) / (time.perf_counter() - started)


def share_of_decoding(model: DualEncoder, dataset: EvaluationDataset, batch: torch.Tensor) -> float:
    """Return the processors' time of decoding over that of decoding and encoding: what sharing them must cost."""
    started = time.process_time()
    for position in range(len(dataset)):
        dataset[position]
    decoded = time.process_time()
    with torch.no_grad():
        for _ in range(0, len(dataset), len(batch)):
            model.encode_image(batch)
    return (decoded - started) / (time.process_time() - started)


def authors(model: DualEncoder, records: list[Record]) -> float:
    started = time.perf_counter()
    evaluation_authors.embed_images(model, [str(record.image) for record in records])
    return len(records) / (time.perf_counter() - started)


def measure(quick: bool) -> list[Row]:
    batches, rounds, workers = (8, 2, 1) if quick else (44, 4, os.cpu_count() or 1)
    count = BATCH * (batches + 1 + workers * PREFETCH)
    model = phantom_towers()[0].eval() if quick else published_student(quick)
    with tempfile.TemporaryDirectory() as folder:
        records, what = head_records(Path(folder), count)
        dataset = EvaluationDataset(records[:BATCH], model.preprocessing)
        ready = [torch.stack([dataset[i]["image"] for i in range(BATCH)])] * (batches // 2)
        encoder_alone(model, ready[:1])
        rates: dict[str, list[float]] = {"authors": [], "ours": [], "encoder": []}
        for _ in range(rounds):
            rates["authors"].append(authors(model, records[: 3 * evaluation_authors.BATCH]))
            rate, images = ours(model, records, workers)
            rates["ours"].append(rate)
            rates["encoder"].append(encoder_alone(model, ready))
        decoding = share_of_decoding(model, EvaluationDataset(records[:64], model.preprocessing), ready[0])
    speed = {name: np.array(values) for name, values in rates.items()}
    seconds = {name: 8187 / values for name, values in speed.items()}
    case = f"student, 8,187 images, {workers} workers"
    note = f"{images} images a round ({what}) in batches of {BATCH}, float32, scaled"
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
            reason=f"the workers decode on the encoder's own {os.cpu_count()} cores: {decoding:.1%} of their time, "
            "and each interruption holds up all of the encoder's threads",
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
