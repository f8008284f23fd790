"""Growth of cost: loss over the batch, evaluation over images and spacings, training over reading processes.

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
from benchmarks.training_step import WARM, fit
from callbacks import PlaneEvaluation
from callbacks.evaluation.evaluation_mode import evaluation_mode
from datamodules.evaluation.protocol import Protocol
from datamodules.record import Record
from metrics.names import PLANES
from models import DualEncoder
from models.zero_shot import age_embeddings


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log cost over log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def seconds_of(run: Any) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def curve(
    name: str, unit: str, per: str, sizes: Sequence[int], costs: Sequence[float], note: str = ""
) -> Row:
    """Return the row of a curve of `costs` in `unit` over `sizes`."""
    row = make_row("cost curve", f"{name} over {per}", "exponent", [exponent(sizes, costs)], note=note)
    return row | {"curve": {"name": name, "unit": unit, "per": per, "sizes": [*sizes], "costs": [*costs]}}


def loss_curves(sizes: Sequence[int]) -> list[Row]:
    """Return time and memory of the chunked loss over batch sizes."""
    seconds, memory = [], []
    for B in sizes:
        run = make_ways(B, torch.float32, "cpu")["chunked"]
        seconds.append(
            min(seconds_of(run) for _ in range(4 if B <= 2048 else 1))
        )  # long calls need no repeats
        memory.append(peak_numbers(run, "cpu") * 4 / 2**20)
    return [
        curve("chunked loss, time", "s", "batch", sizes, seconds),
        curve("chunked loss, memory", "MiB", "batch", sizes, memory),
    ]


def whole_evaluation(model: DualEncoder, records: list[Record]) -> tuple[float, int]:
    """Return the seconds of one plane evaluation, and the workers that the data module uses for it.

    Includes the start of workers, prompts, images, and scores with intervals.
    """
    planes = [*Protocol.load().planes]
    labelled = [replace(record, plane=planes[i % len(planes)]) for i, record in enumerate(records)]
    data = ListedData(labelled, num_workers=os.cpu_count() or 1)
    start = time.perf_counter()
    loader = data.evaluation_loader("hc18", "all", model.preprocessing)
    with evaluation_mode(model) as used:
        PlaneEvaluation().score(used, loader, labelled, PLANES)
    return time.perf_counter() - start, loader.num_workers


def evaluation_curves(images: Sequence[int], spacings: Sequence[int]) -> list[Row]:
    """Return the seconds of plane evaluation over images and of HC18 validity's text side over spacings."""
    student = phantom_towers()[0].eval()
    templates = Protocol.load().biometry
    with tempfile.TemporaryDirectory() as folder:
        records, _ = head_records(Path(folder), max(images))
        _, workers = whole_evaluation(student, records[: min(images)])  # warm
        image_costs = [whole_evaluation(student, records[:n])[0] for n in images]
    printed = [f"{i / 100:.2f}" for i in range(1, max(spacings) + 1)]
    age_embeddings(student, templates, printed[:1])  # warm
    spacing_costs = [
        seconds_of(lambda n=n: age_embeddings(student, templates, printed[:n])) for n in spacings
    ]
    whole = f"phantom student; whole evaluations with {workers} workers, start and scores included"
    return [
        curve("plane evaluation", "s", "images", images, image_costs, whole),
        curve("HC18 validity", "s", "spacings", spacings, spacing_costs, "phantom student, text side"),
    ]


def training_curve(workers: Sequence[int], steps: int, batch: int) -> Row:
    """Return the seconds of training steps from the PNG files over the number of processes."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records, _ = head_records(folder / "images", batch * (steps + WARM + 1))
        costs = [fit("live", records, folder, steps, batch, count, cache=False) for count in workers]
    note = (
        f"batch {batch}, phantom towers, live teacher, {os.cpu_count()} cores; the training process and "
        f"{', '.join(map(str, workers))} workers; an exponent of -1 is a perfect share-out"
    )
    return curve("training step", "s", "processes", [1 + count for count in workers], costs, note)


def measure(quick: bool) -> list[Row]:
    if quick:
        return [*loss_curves([64, 128]), *evaluation_curves([32, 64], [1, 2]), training_curve([0, 1], 2, 4)]
    return [
        *loss_curves([256, 512, 1024, 2048, 4096, 8192, 16384]),
        # Large enough that prompts and other constant costs hardly bend the curve.
        *evaluation_curves([256, 512, 1024, 2048], [5, 10, 20, 40]),
        training_curve([0, 1, 2], 10, 64),
    ]


if __name__ == "__main__":
    command("cost_curves", measure, __doc__)
