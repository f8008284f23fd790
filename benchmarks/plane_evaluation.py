"""Plane evaluation as `make evaluate` runs it, against the encoder alone and batches of 16 decoded serially.

Ours reads through the data module's own loader, in its own batches. On a CPU all cores decode a batch, then all embed
it. Beside a GPU workers decode, and their start counts, which comes once in 8,187 images. The encoder alone runs at
its best batch size. All ways embed the same images in each turn.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks._material import ListedData, head_records, phantom_towers, published_student
from benchmarks._record import Row, command, interleave, make_row, not_run
from benchmarks.baselines import evaluation_authors
from callbacks.evaluation.evaluation_mode import evaluation_mode
from datamodules.evaluation.dataset import EvaluationDataset
from datamodules.record import Record
from export.latency.machine import instructions
from models import DualEncoder
from models.zero_shot import encode_images

TIMED, TIMED_BESIDE_WORKERS = 1, 16  # batches of a turn
ENCODER_BATCHES = (4, 16, 64)
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
IMAGES = 8187
CASE = "student, 8,187 images"


def ours(model: DualEncoder, loader: DataLoader, half: torch.dtype | None = None) -> None:
    """Embed all images of the loader, in float32 or in half precision."""
    with evaluation_mode(model, full_precision=half is None, half=half) as used:
        for batch in loader:
            encode_images(used, batch["image"])


@torch.no_grad()
def encoder_alone(model: DualEncoder, images: torch.Tensor, batch: int) -> float:
    """Return the seconds of the encoder over ready images."""
    started = time.perf_counter()
    for part in images.split(batch):
        model.encode_image(part)
    return time.perf_counter() - started


def timed_images(model: DualEncoder, folder: Path, batch: int | None) -> tuple[list[Record], DataLoader, str]:
    """Return the images of a turn, the data module's loader over them, and their description."""

    def loader_of(records: list[Record]) -> DataLoader:
        options = {} if batch is None else {"evaluation_batch_size": batch}
        data = ListedData(records, num_workers=os.cpu_count() or 1, **options)
        return data.evaluation_loader("hc18", "all", model.preprocessing)

    probe = loader_of(head_records(folder, 1)[0])  # the data module may use fewer workers than it is offered
    batches = TIMED_BESIDE_WORKERS if probe.num_workers else TIMED
    records, what = head_records(folder, batches * (probe.batch_size or 1))
    return records, loader_of(records), what


def measure(quick: bool) -> list[Row]:
    model = phantom_towers()[0].eval() if quick else published_student(quick)
    with tempfile.TemporaryDirectory() as folder:
        records, loader, what = timed_images(model, Path(folder), 4 if quick else None)
        dataset = EvaluationDataset(records, model.preprocessing)
        images = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
        encoder_alone(model, images[:4], 4)  # warm
        best = min(ENCODER_BATCHES, key=lambda batch: encoder_alone(model, images[:64], batch))
        paths = [str(record.image) for record in records]
        ways: dict[str, Callable[[], Any]] = {
            "authors": lambda: evaluation_authors.embed_images(model, paths),
            "encoder": lambda: encoder_alone(model, images, best),
            "ours": lambda: ours(model, loader),
        }
        if BF16 & set(instructions()):
            with evaluation_mode(model, full_precision=False, half=torch.bfloat16) as used:  # warm
                encode_images(used, images[:4])
            ways["bf16"] = lambda: ours(model, loader, torch.bfloat16)
        times = interleave(ways, 1 if quick else 3, warm=False)
    return rows_of(times, loader, len(records), what, best)


def rows_of(times: dict[str, np.ndarray], loader: DataLoader, count: int, what: str, best: int) -> list[Row]:
    """Return the rows from the seconds of each way over `count` images."""
    seconds = {name: IMAGES / count * values for name, values in times.items()}
    batches = f"batches of {loader.batch_size}, {loader.num_workers} workers"
    note = f"{count} images a turn ({what}) in the data module's {batches}, float32, scaled"
    half = ("plane evaluation", f"{CASE}, bf16 (full_precision: false)", "times faster than in float32")
    rows = [
        make_row(
            "plane evaluation", CASE, "of the encoder's own throughput", times["encoder"] / times["ours"],
            target=0.9, seconds=seconds, limit="the encoder alone",
            limit_values=times["ours"] / times["encoder"],
            note=f"{note}; the encoder alone in its best batches, of {best}",
        ),
        make_row(
            "plane evaluation", CASE, "times faster than batches of 16 decoded serially",
            times["authors"] / times["ours"], seconds=seconds, note=note,
        ),
    ]  # fmt: skip
    if "bf16" not in times:
        return [*rows, not_run(*half, "this processor has no bfloat16 arithmetic")]
    note = "only the towers run in it; off by default"
    return [*rows, make_row(*half, times["ours"] / times["bf16"], seconds=seconds, note=note)]


if __name__ == "__main__":
    command("plane_evaluation", measure, __doc__)
