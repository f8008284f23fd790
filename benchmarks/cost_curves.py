"""How cost grows: loss over the batch, evaluation over images and spacings, training over reading processes.

Each curve is fitted by ``cost = c * size ^ exponent`` (least squares of logarithms), once in every process;
`python -m benchmarks._table` draws the median costs into docs/.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._material import ListedData, head_records, phantom_towers
from benchmarks._record import Row, command, make_row
from benchmarks.loss_speed import make_ways, peak_numbers
from benchmarks.training_step import WARM, fit, training_records
from callbacks import PlaneEvaluation
from callbacks.evaluation_mode import evaluation_mode
from datamodules.protocol import Protocol
from datamodules.record import Record
from metrics.names import PLANES
from models import DualEncoder
from models.zero_shot import age_embeddings


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log cost over log size."""
    slope, _ = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(slope)


def seconds_of(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def curve(
    name: str, unit: str, per: str, sizes: Sequence[int], costs: Sequence[float], note: str = ""
) -> Row:
    row = make_row("cost curve", f"{name} over {per}", "exponent", [exponent(sizes, costs)], note=note)
    return row | {"curve": {"name": name, "unit": unit, "per": per, "sizes": [*sizes], "costs": [*costs]}}


def loss_curves(sizes: Sequence[int]) -> list[Row]:
    seconds, memory = [], []
    for B in sizes:
        run = make_ways(B, torch.float32, "cpu")["chunked"]
        # Long calls need neither warmth nor repeats.
        seconds.append(min(seconds_of(run) for _ in range(4 if B <= 2048 else 1)))
        memory.append(peak_numbers(run, "cpu") * 4 / 2**20)
    return [
        curve("chunked loss, time", "s", "batch", sizes, seconds),
        curve("chunked loss, memory", "MiB", "batch", sizes, memory),
    ]


def whole_evaluation(model: DualEncoder, records: list[Record]) -> tuple[float, int]:
    """Return the seconds of one plane evaluation, and how many workers the data module lets read for it.

    Counted are their start, prompts, images and scores with intervals.
    """
    planes = [*Protocol.load().planes]
    labelled = [
        replace(record, name=f"{i}.png", plane=planes[i % len(planes)]) for i, record in enumerate(records)
    ]
    evaluation, data = PlaneEvaluation(), ListedData(labelled, num_workers=os.cpu_count() or 1)
    start = time.perf_counter()
    loader = data.evaluation_loader("hc18", "all", model.preprocessing)
    with evaluation_mode(model) as used:
        evaluation.score(used, loader, labelled, PLANES)
    return time.perf_counter() - start, loader.num_workers


def evaluation_curves(images: Sequence[int], spacings: Sequence[int]) -> list[Row]:
    student, _ = phantom_towers()
    student.eval()
    templates = Protocol.load().biometry
    with tempfile.TemporaryDirectory() as folder:
        records, _ = head_records(Path(folder), max(images))
        _, workers = whole_evaluation(student, records[: min(images)])  # warm
        image_costs = [whole_evaluation(student, records[:n])[0] for n in images]
    printed = [f"{i / 100:.2f}" for i in range(1, max(spacings) + 1)]
    age_embeddings(student, templates, printed[:1])
    spacing_costs = [
        seconds_of(lambda n=n: age_embeddings(student, templates, printed[:n]))  # type: ignore[misc]
        for n in spacings
    ]
    whole = f"phantom student; whole evaluations with {workers} workers, start and scores included"
    return [
        curve("plane evaluation", "s", "images", images, image_costs, whole),
        curve("HC18 validity", "s", "spacings", spacings, spacing_costs, "phantom student, text side"),
    ]


def training_curve(workers: Sequence[int], steps: int, batch: int) -> Row:
    """Time real training steps from the PNG files by the number of workers; a machine's cores bound it."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    costs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records, _ = training_records(folder, batch * (steps + WARM + 1))
        for count in workers:
            times = fit("live", records, folder, steps, batch, count, cache=False)
            costs.append(float(np.median(times.total)))
    note = (
        f"batch {batch}, phantom towers, live teacher, {os.cpu_count()} cores; the training process and "
        f"{', '.join(map(str, workers))} workers; an exponent of -1 is a perfect share-out"
    )
    return curve("training step", "s", "processes", [1 + count for count in workers], costs, note)


def measure(quick: bool) -> list[Row]:
    if quick:
        loss, images, spacings, workers, steps, batch = [64, 128], [32, 64], [1, 2], [0, 1], 2, 4
    else:
        loss = [256, 512, 1024, 2048, 4096, 8192, 16384]
        # Large enough that prompts, and what else comes once, hardly bend the curve.
        images, spacings = [256, 512, 1024, 2048], [5, 10, 20, 40]
        workers, steps, batch = [0, 1, 2], 10, 64
    return [
        *loss_curves(loss),
        *evaluation_curves(images, spacings),
        training_curve(workers, steps, batch),
    ]


if __name__ == "__main__":
    command("cost_curves", measure, __doc__)
