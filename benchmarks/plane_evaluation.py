"""Plane evaluation as `make evaluate` runs it, against the encoder's own speed and batches of 16 decoded serially.

Ours reads through the data module's own loader, in its own batches. Start and end are left out, as they come once in
8,187 images: the clock starts when the first batch is embedded. On a CPU all cores decode a batch, then all embed it;
beside a GPU workers decode, and each timed batch is embedded beside the decoding of another one. The encoder alone runs
at the batch that is best for it.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks._material import ListedData, head_records, phantom_towers, published_student
from benchmarks._record import Row, command, make_row, not_run
from benchmarks.baselines import evaluation_authors
from callbacks.evaluation_mode import evaluation_mode
from datamodules.evaluation_dataset import EvaluationDataset, evaluation_workers
from datamodules.record import Record
from export.latency.machine import instructions
from models import DualEncoder
from models.zero_shot import encode_images

PREFETCHED = 2  # batches that a worker of a `DataLoader` reads ahead
TIMED = 3  # batches of a round
ENCODER_BATCHES = (4, 16, 64)
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
IMAGES = 8187


def ours(model: DualEncoder, data: ListedData, half: torch.dtype | None = None) -> tuple[float, float]:
    """Return images a second, decoding included, and the share of that time spent waiting for a batch."""
    loader = data.evaluation_loader("hc18", "all", model.preprocessing)
    ends, waited = [], 0.0
    with evaluation_mode(model, full_precision=half is None, half=half) as used:
        for batch in loader:
            waited += time.perf_counter() - ends[-1] if ends else 0.0
            encode_images(used, batch["image"])
            ends.append(time.perf_counter())
            if len(ends) > TIMED:
                break
    seconds = ends[-1] - ends[0]
    return TIMED * data.evaluation_batch_size / seconds, waited / seconds


@torch.no_grad()
def encoder_alone(model: DualEncoder, images: torch.Tensor, batch: int) -> float:
    """Return images a second of the encoder over ready images."""
    started = time.perf_counter()
    for part in images.split(batch):
        model.encode_image(part)
    return len(images) / (time.perf_counter() - started)


def share_of_decoding(model: DualEncoder, dataset: EvaluationDataset, images: torch.Tensor) -> float:
    """Return the processors' time of decoding over that of decoding and encoding: what sharing them must cost."""
    started = time.process_time()
    for position in range(len(dataset)):
        dataset[position]
    decoded = time.process_time()
    with torch.no_grad():
        for part in images.split(64):
            model.encode_image(part)
    return (decoded - started) / (time.process_time() - started)


def authors(model: DualEncoder, records: list[Record]) -> float:
    started = time.perf_counter()
    evaluation_authors.embed_images(model, [str(record.image) for record in records])
    return len(records) / (time.perf_counter() - started)


def measure(quick: bool) -> list[Row]:
    workers = evaluation_workers(os.cpu_count() or 1)
    options = {"evaluation_batch_size": 4} if quick else {}  # the data module's own default
    model = phantom_towers()[0].eval() if quick else published_student(quick)
    data = ListedData([], num_workers=workers, **options)
    count = data.evaluation_batch_size * (TIMED + 1 + workers * PREFETCHED)
    bf16 = bool(BF16 & set(instructions()))
    with tempfile.TemporaryDirectory() as folder:
        records, what = head_records(Path(folder), count)
        data = ListedData(records, num_workers=workers, **options)
        dataset = EvaluationDataset(records[:64], model.preprocessing)
        images = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
        encoder_alone(model, images[:4], 4)
        best = max(ENCODER_BATCHES, key=lambda batch: encoder_alone(model, images, batch))
        rates = {
            "authors": authors(model, records[: 3 * evaluation_authors.BATCH]),
            "encoder": encoder_alone(model, images, best),
        }
        rates["ours"], waiting = ours(model, data)
        if bf16:
            rates["bf16"], _ = ours(model, data, torch.bfloat16)
        decoding = share_of_decoding(model, dataset, images)
    speed = {name: np.array([rate]) for name, rate in rates.items()}
    return rows_of(speed, data, f"{TIMED * data.evaluation_batch_size} images a round ({what})", best,
                   {"waiting": waiting, "decoding": decoding})  # fmt: skip


def rows_of(
    speed: dict[str, np.ndarray], data: ListedData, timed: str, best: int, shares: dict[str, float]
) -> list[Row]:
    """Return the table's rows from images a second of each way."""
    seconds = {name: IMAGES / values for name, values in speed.items()}
    case = f"student, 8,187 images, {data.num_workers} workers"
    note = f"{timed} in the data module's batches of {data.evaluation_batch_size}, float32, scaled"
    reason = (
        f"decoding takes {shares['decoding']:.1%} of the processors' time of both, so at most "
        f"{1 - shares['decoding']:.2f} is left; waiting for a batch takes {shares['waiting']:.1%} of the time"
    )
    half = (f"{case}, bf16 (full_precision: false)", "times faster than in float32")
    return [
        make_row(
            "plane evaluation", case, "of the encoder's own throughput", speed["ours"] / speed["encoder"],
            target=0.9, seconds=seconds, limit="the encoder alone",
            limit_values=speed["encoder"] / speed["ours"], reason=reason,
            note=f"{note}; the encoder alone in its best batches, of {best}",
        ),
        make_row(
            "plane evaluation", case, "times faster than batches of 16 decoded serially",
            speed["ours"] / speed["authors"], seconds=seconds, note=note,
        ),
        make_row("plane evaluation", *half, speed["bf16"] / speed["ours"], seconds=seconds,
                 note="only the towers run in it; off until asked for")
        if "bf16" in speed
        else not_run("plane evaluation", *half, "this processor has no bfloat16 arithmetic"),
    ]  # fmt: skip


if __name__ == "__main__":
    command("plane_evaluation", measure, __doc__)
