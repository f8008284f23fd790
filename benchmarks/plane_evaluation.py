"""Plane evaluation as `make evaluate` runs it, against the encoder's own speed and batches of 16 decoded serially.

Ours reads through the data module's own loader, in its own batches. On a CPU all cores decode a batch, then all embed
it. Beside a GPU workers decode, and each timed batch is embedded beside the decoding of another one; their start and
end are left out, as they come once in 8,187 images: the clock starts when the first batch is embedded. The encoder
alone runs at the batch that is best for it. All ways embed the same images in each turn.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks._material import ListedData, head_records, phantom_towers, published_student
from benchmarks._record import Row, command, make_row, not_run
from benchmarks._turns import in_turns
from benchmarks.baselines import evaluation_authors
from callbacks.evaluation_mode import evaluation_mode
from datamodules.evaluation_dataset import EvaluationDataset
from datamodules.record import Record
from export.latency.machine import instructions
from models import DualEncoder
from models.zero_shot import encode_images

PREFETCHED = 2  # batches that a worker of a `DataLoader` reads ahead
TIMED = 1  # batches of a turn
TIMED_BESIDE_WORKERS = 3  # what they read ahead hides behind fewer
TURNS = 3
ENCODER_BATCHES = (4, 16, 64)
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
IMAGES = 8187


def ours(
    model: DualEncoder, loader: DataLoader, timed: int, half: torch.dtype | None = None
) -> tuple[float, float]:
    """Return images a second, decoding included, and the share of that time spent waiting for a batch."""
    waited, left_out = 0.0, 1 if loader.num_workers else 0
    with evaluation_mode(model, full_precision=half is None, half=half) as used:
        started = last = time.perf_counter()
        for number, batch in enumerate(loader, start=1):
            waited += time.perf_counter() - last
            encode_images(used, batch["image"])
            last = time.perf_counter()
            if number == left_out:
                started, waited = last, 0.0
            if number == left_out + timed:
                break
    return timed * (loader.batch_size or 1) / (last - started), waited / (last - started)


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
    options = {"evaluation_batch_size": 4} if quick else {}  # the data module's own default
    model = phantom_towers()[0].eval() if quick else published_student(quick)
    asked = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        timed, records, loader, what = timed_images(model, Path(folder), asked, options)
        dataset = EvaluationDataset(records, model.preprocessing)
        images = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
        encoder_alone(model, images[:4], 4)
        best = max(ENCODER_BATCHES, key=lambda batch: encoder_alone(model, images[:64], batch))
        waiting: list[float] = []

        def ours_in_float32() -> float:
            rate, waited = ours(model, loader, timed)
            waiting.append(waited)
            return rate

        ways: dict[str, Callable[[], float]] = {
            "authors": lambda: authors(model, records),
            "encoder": lambda: encoder_alone(model, images, best),
            "ours": ours_in_float32,
        }
        if BF16 & set(instructions()):
            with evaluation_mode(model, full_precision=False, half=torch.bfloat16) as used:  # warm
                encode_images(used, images[:4])
            ways["bf16"] = lambda: ours(model, loader, timed, torch.bfloat16)[0]
        speed = {name: np.array(rates) for name, rates in in_turns(ways, 1 if quick else TURNS).items()}
        decoding = share_of_decoding(model, dataset, images)
    return rows_of(speed, loader, f"{len(records)} images a turn ({what})", best,
                   {"waiting": float(np.median(waiting)), "decoding": decoding})  # fmt: skip


def timed_images(
    model: DualEncoder, folder: Path, workers: int, options: dict[str, int]
) -> tuple[int, list[Record], DataLoader, str]:
    """Return the number of timed batches, their images, and the data module's loader that repeats them.

    How many workers read is the data module's decision: it may use fewer than it is offered.
    """

    def loader_of(records: list[Record]) -> DataLoader:
        data = ListedData(records, num_workers=workers, **options)
        return data.evaluation_loader("hc18", "all", model.preprocessing)

    one, _ = head_records(folder, 1)
    probe = loader_of(one)
    timed = TIMED_BESIDE_WORKERS if probe.num_workers else TIMED
    records, what = head_records(folder, timed * (probe.batch_size or 1))
    turns_of_all = -(-(timed + 1 + probe.num_workers * PREFETCHED) // timed)
    return timed, records, loader_of(records * turns_of_all), what


def rows_of(
    speed: dict[str, np.ndarray], loader: DataLoader, timed: str, best: int, shares: dict[str, float]
) -> list[Row]:
    """Return the table's rows from images a second of each way."""
    seconds = {name: IMAGES / values for name, values in speed.items()}
    case = "student, 8,187 images"
    note = (
        f"{timed} in the data module's batches of {loader.batch_size}, {loader.num_workers} workers, "
        "float32, scaled"
    )
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
