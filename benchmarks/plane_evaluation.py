"""Plane evaluation as `make evaluate` runs it, against the encoder alone and batches of 16 decoded serially.

Ours is the evaluations' own embedding of images: on a CPU all cores decode a batch, then all embed it. The encoder
alone runs at its best batch size. All ways embed the same images in each turn.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks._authors import embed_images
from benchmarks._material import STUDENT, ListedData, head_records, phantom_towers, published
from benchmarks._record import Row, interleave, seconds_of
from callbacks.evaluation.embedding_pass import embed
from datamodules.evaluation import dataset as evaluated
from datamodules.evaluation.dataset import EvaluationDataset, evaluation_workers
from datamodules.record import Record
from models import DualEncoder
from models.evaluation_mode import evaluation_mode

ENCODER_BATCHES = (4, 16, 64)
IMAGES, TIMED = 8187, 64
CASE = "student, 8,187 images"


def ours(model: DualEncoder, records: list[Record], batch_size: int, workers: int) -> None:
    """Embed all images, none of which is still in memory from the last turn."""
    evaluated.squares.clear()
    with evaluation_mode(model) as used:
        embed(used, records, batch_size, workers)


@torch.no_grad()
def encoder_alone(model: DualEncoder, images: torch.Tensor, batch: int) -> None:
    """Embed ready images."""
    for part in images.split(batch):
        model.encode_image(part)


def measure(quick: bool) -> list[Row]:
    model = phantom_towers()[0].eval() if quick else published(STUDENT)
    with tempfile.TemporaryDirectory() as folder:
        records, what = head_records(Path(folder), count := 4 if quick else TIMED)
        data = ListedData(records, num_workers=os.cpu_count() or 1)
        dataset = EvaluationDataset(records, model.preprocessing)
        images = torch.stack([dataset[position]["image"] for position in range(count)])
        encoder_alone(model, images[:4], 4)  # warm
        alone = {size: seconds_of(partial(encoder_alone, model, images, size)) for size in ENCODER_BATCHES}
        best = min(alone, key=alone.__getitem__)
        ways: dict[str, Callable[[], Any]] = {
            "authors": partial(embed_images, model, [str(record.image) for record in records]),
            "encoder": partial(encoder_alone, model, images, best),
            "ours": partial(ours, model, records, data.evaluation_batch_size, data.num_workers),
        }
        times = interleave(ways, 1 if quick else 3, warm=False)
    seconds = {name: IMAGES / count * values for name, values in times.items()}
    batches = f"batches of {data.evaluation_batch_size}, {evaluation_workers(data.num_workers)} workers"
    note = f"{count} images a turn ({what}) in the data module's {batches}, float32, scaled"
    return [
        Row(
            "plane evaluation", CASE, "of the encoder's own throughput", times["encoder"] / times["ours"],
            target=0.9, seconds=seconds, limit="the encoder alone", times_limit=times["ours"] / times["encoder"],
            note=f"{note}; the encoder alone in its best batches, of {best}",
        ),
        Row(
            "plane evaluation", CASE, "times faster than batches of 16 decoded serially",
            times["authors"] / times["ours"], seconds=seconds, note=note,
        ),
    ]  # fmt: skip
