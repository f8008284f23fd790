"""The training step: the time spent beside the towers, and the cost of the teacher.

A step is the time from one batch's end to the next in Lightning's loop: waiting for data, towers, loss, clipping,
optimiser, logging. It is compared with forward and backward of the same towers alone on a ready batch, timed in the
same turns. A missed target names the share that is left on a ready batch without workers, which no faster
reading can remove.

The towers are the phantom preset's, and once the published ones: MobileCLIP2-S0 beside ViT-L/14, random weights.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from benchmarks._material import (
    ListedData,
    head_records,
    phantom_towers,
    published_student,
    published_teacher,
)
from benchmarks._record import Row, command, in_turns, make_row
from benchmarks.baselines.loss_authors import srkd_loss
from benchmarks.baselines.pipeline_authors import AuthorsPairs
from callbacks import TeacherCache
from datamodules.cores import usable_cores
from datamodules.record import Record
from lightning_modules import DistillationModule
from losses import CLIPLoss, SRKDLoss
from models import DualEncoder, freeze

WARM = 4
Towers = tuple[DualEncoder, DualEncoder]


class StepEnds(Callback):
    """Times of the ends of all steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def ready_batch(data: ListedData, towers: Towers) -> Any:
    """Return the first batch of a data module for two towers."""
    data.bind(*(model.preprocessing for model in towers))
    return next(iter(data.train_dataloader()))


def fit(
    kind: str, records: list[Record], folder: Path, steps: int, batch: int, workers: int, cache: bool = True,
    towers: Callable[[], Towers] = phantom_towers, warm: int = WARM, ready: bool = False,
) -> float:  # fmt: skip
    """Train `steps` steps after `warm` ones and return their median seconds, from one end to the next.

    Args:
        kind: "live", "teacher cache" or "no teacher".
        records: Images.
        folder: Folder of caches and logs.
        steps: Number of timed steps.
        batch: Images per step.
        workers: Workers of the data loader.
        cache: Read through the cache of squares.
        towers: Makes student and teacher.
        warm: Steps before the timed ones.
        ready: Train on one ready batch, without any worker.
    """
    models = towers()
    student, teacher = models
    taught = kind != "no teacher"
    loss = SRKDLoss() if taught else CLIPLoss()
    module = DistillationModule(student, teacher if taught else None, loss, learning_rate=1e-4)
    times = StepEnds()
    kept = [TeacherCache(str(folder / "teacher"), draws=1)] if kind == "teacher cache" else []
    squares = str(folder / "squares") if cache else None
    data = ListedData(records, batch_size=batch, num_workers=workers, cache=squares, zoom=0.3)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps + warm, gradient_clip_val=1.0, log_every_n_steps=10,
        logger=CSVLogger(str(folder), name=kind), callbacks=[times, *kept], limit_val_batches=0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    if ready:
        batches = [ready_batch(data, models)] * (steps + warm)
        # Lightning takes a plain list for several loaders.
        trainer.fit(module, train_dataloaders=DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    else:
        trainer.fit(module, datamodule=data)
    return float(np.median(np.diff(times.ends)[-steps:]))


def authors(records: list[Record], steps: int, batch: int, workers: int) -> float:
    """Return the median seconds of a step of the described way: Pillow views, both towers, their loss."""
    student, teacher = phantom_towers()
    freeze(teacher)
    tokens = tuple(model.tokenize(["fetal head at 24 weeks"])[0] for model in (student, teacher))
    paths = [record.image for record in records] * (1 + (steps + WARM + 1) * batch // len(records))
    pairs = AuthorsPairs(paths, student.preprocessing, teacher.preprocessing, tokens)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    student.train()
    ends = [time.perf_counter()]
    for image, teacher_image, text, teacher_text in DataLoader(pairs, batch, num_workers=workers):
        own = (*student(image, text), student.logit_scale)
        with torch.no_grad():
            taught = (*teacher(teacher_image, teacher_text), teacher.logit_scale)
        optimizer.zero_grad()
        srkd_loss(own, taught).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        ends.append(time.perf_counter())
        if len(ends) > steps + WARM:
            break
    return float(np.median(np.diff(ends)[WARM:]))


def towers_alone(
    records: list[Record], steps: int, batch: int, towers: Callable[[], Towers] = phantom_towers
) -> float:
    """Return the median seconds of both towers' forward and the student's backward pass on one ready batch."""
    models = towers()
    student, teacher = models
    module = DistillationModule(student, teacher, SRKDLoss()).train()  # lays out the models as training does
    ready = ready_batch(ListedData(records, batch_size=batch, num_workers=0, zoom=0.3), models)
    upstream = torch.randn(2, batch, student.embed_dim) / batch
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        embedded = module.embeddings(ready, "student")
        with torch.no_grad():
            module.embeddings(ready, "teacher")
        torch.autograd.backward((embedded.image, embedded.text), tuple(upstream))
        seconds.append(time.perf_counter() - start)
        student.zero_grad()
    return float(np.median(seconds[1:]))


def beyond_row(case: str, seconds: dict[str, np.ndarray], note: str) -> Row:
    """Return the row of the share of a step beyond its towers.

    Args:
        case: Setting.
        seconds: Of a "live" step, of the "towers alone", and of a step on a "ready" batch if timed, in each round.
        note: Remark for the reader.
    """
    alone, reason = seconds["towers alone"], ""
    if "ready" in seconds:
        left = max(float(np.median(1 - alone / seconds["ready"])), 0.0)
        reason = f"on a ready batch without workers {left:.1%} are left"
    return make_row(
        "training step", f"{case}, live teacher", "of the step beyond the towers alone on a ready batch",
        1 - alone / seconds["live"], target=0.05, better="lower", seconds=seconds, limit="towers alone",
        limit_values=seconds["live"] / alone, note=note, reason=reason,
    )  # fmt: skip


def measure(quick: bool) -> list[Row]:
    steps, batch, full_batch = (2, 4, 2) if quick else (10, 64, 8)
    workers = 1 if quick else usable_cores()
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kinds = ("live", "teacher cache", "no teacher")

    def published() -> Towers:
        return published_student(quick), published_teacher(quick)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records, what = head_records(folder / "images", 64 if quick else 10 * batch)
        for kind in kinds[1:]:  # fills the caches
            fit(kind, records, folder, 1, batch, workers)
        ways = {
            "towers alone": partial(towers_alone, records, steps, batch),
            **{kind: partial(fit, kind, records, folder, steps, batch, workers) for kind in kinds},
            "ready": partial(fit, "live", records, folder, steps, batch, 0, ready=True),
            "authors": partial(authors, records, steps, batch, workers),
        }
        seconds = {name: np.array(found) for name, found in in_turns(ways, 1 if quick else 3).items()}
        live = partial(fit, "live", records, folder, 2, full_batch, workers, False, published, warm=2)
        # A step of the published towers takes 13 s on two cores.
        full = {"live": live, "towers alone": partial(towers_alone, records, 2, full_batch, published)}
        seconds_full = {name: np.array(found) for name, found in in_turns(full, 1).items()}
    case = f"phantom towers, batch {batch}, {workers} workers"
    note = f"{steps} steps a round, {what}; a teacher of the student's own size"
    return [
        beyond_row(case, seconds, note),
        beyond_row(
            f"published towers, batch {full_batch}, {workers} workers", seconds_full,
            f"MobileCLIP2-S0 at 256 px beside ViT-L/14 at 224, random weights, 2 steps a round, {what}",
        ),
        make_row(
            "training step", f"{case}, live teacher", "times faster than the authors' way",
            seconds["authors"] / seconds["live"], seconds=seconds, note=note,
        ),
        make_row(
            "training step", f"{case}, teacher cache", "times the step without a teacher",
            seconds["teacher cache"] / seconds["no teacher"], target=1.1, better="lower", seconds=seconds,
            note=f"{note}; on disk: 1.5 KB a draw, image and text at D = 192 in float32",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    command("training_step", measure, __doc__)
