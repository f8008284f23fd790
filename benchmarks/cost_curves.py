"""How cost grows: loss over the batch, evaluation over images and spacings, reading over workers.

Each curve is fitted by ``cost = c * size ^ exponent`` (least squares of logarithms); `python -m benchmarks._table`
draws them into docs/.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._material import head_records, phantom_towers
from benchmarks._record import Row, command, make_row
from benchmarks.loss_speed import make_ways, peak_numbers
from benchmarks.plane_evaluation import ours as images_per_second
from benchmarks.training_step import Heads, _training_records
from datamodules.protocol import Protocol
from models.zero_shot import age_embeddings


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log cost over log size."""
    slope, _ = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(slope)


def best_of(run: Any, repeats: int) -> float:
    """Return the shortest of some timings: what the machine needs when nothing disturbs it."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def curve(
    name: str, unit: str, per: str, sizes: Sequence[int], costs: Sequence[float], note: str = ""
) -> Row:
    row = make_row("cost curve", f"{name} over {per}", "exponent", [exponent(sizes, costs)], note=note)
    return row | {"curve": {"name": name, "unit": unit, "per": per, "sizes": [*sizes], "costs": [*costs]}}


def loss_curves(sizes: Sequence[int]) -> list[Row]:
    seconds, memory = [], []
    for B in sizes:
        run = make_ways(B, torch.float32, "cpu")["chunked"]
        if B <= 2048:
            run()  # warm; long calls need none
        seconds.append(best_of(run, 3 if B <= 4096 else 1))
        memory.append(peak_numbers(run, "cpu") * 4 / 2**20 if B <= 8192 else float("nan"))
    known = [i for i, value in enumerate(memory) if np.isfinite(value)]
    return [
        curve("chunked loss, time", "s", "batch", sizes, seconds),
        curve("chunked loss, memory", "MiB", "batch", [sizes[i] for i in known], [memory[i] for i in known]),
    ]


def evaluation_curves(images: Sequence[int], spacings: Sequence[int]) -> list[Row]:
    student, _ = phantom_towers()
    student.eval()
    templates = Protocol.load().biometry
    with tempfile.TemporaryDirectory() as folder:
        records, _ = head_records(Path(folder), max(images))
        image_costs = [n / images_per_second(student, records[:n], 0) for n in images]
    printed = [f"{i / 100:.2f}" for i in range(1, max(spacings) + 1)]
    age_embeddings(student, templates, printed[:1])
    spacing_costs = [
        best_of(lambda n=n: age_embeddings(student, templates, printed[:n]), 2)  # type: ignore[misc]
        for n in spacings
    ]
    return [
        curve("plane evaluation", "s", "images", images, image_costs, "phantom student"),
        curve("HC18 validity", "s", "spacings", spacings, spacing_costs, "phantom student, text side"),
    ]


def reading_curve(workers: Sequence[int], batches: int, batch: int) -> Row:
    """Time batches of training pairs by the number of workers; a machine's cores bound it."""
    student, teacher = phantom_towers()
    costs = []
    with tempfile.TemporaryDirectory() as name:
        records, _ = _training_records(Path(name), batch * (batches + 2))
        for count in workers:
            data = Heads(records, batch_size=batch, num_workers=count)
            data.bind(student.preprocessing, teacher.preprocessing)
            stream = iter(data.train_dataloader())
            next(stream)
            start = time.perf_counter()
            for _ in range(batches):
                next(stream)
            costs.append((time.perf_counter() - start) / batches)
    note = f"{os.cpu_count()} cores; an exponent of -1 is a perfect share-out"
    return curve("reading a batch of pairs", "s", "workers", workers, costs, note)


def measure(quick: bool) -> list[Row]:
    if quick:
        loss, images, spacings, workers, batches, batch = [64, 128], [32, 64], [1, 2], [1, 2], 2, 4
    else:
        loss = [256, 512, 1024, 2048, 4096, 8192, 16384]
        images, spacings = [64, 128, 256, 512], [5, 10, 20, 40]
        workers, batches, batch = [1, 2, 4], 12, 64
    return [
        *loss_curves(loss),
        *evaluation_curves(images, spacings),
        reading_curve(workers, batches, batch),
    ]


if __name__ == "__main__":
    command("cost_curves", measure, __doc__)
