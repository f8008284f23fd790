"""The training step: what is spent outside the towers, and what the teacher costs.

A step is the time from one batch's end to the next one's end in Lightning's own loop: waiting for data, towers,
loss, clipping, optimiser, logging. Outside the towers is what a step takes more than the same towers, forward and
backward, alone on a ready batch without any worker, timed right before and right after it. Beside a missed target
stand the whole step on a ready batch without any worker, which is what no reading of data, however fast, can take
away, and what the reading itself costs the cores that the towers run on. A step is told apart from within, too:
the forward passes between module hooks, the backward pass from the moment the embeddings' gradients are known. On a
CPU that books what the workers take from the towers' cores as the towers' time, so it stands in a row of its own.

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
from benchmarks._record import ONE_MINUS, Row, command, make_row
from benchmarks._step_parts import StepTimes, TimedModule, told_apart
from benchmarks._threads import one_thread
from benchmarks._turns import in_turns
from benchmarks.baselines.loss_authors import srkd_loss
from benchmarks.baselines.pipeline_authors import AuthorsPairs
from callbacks import TeacherCache
from datamodules.cores import usable_cores
from datamodules.record import Record
from lightning_modules import DistillationModule
from losses import CLIPLoss, SRKDLoss
from models import DualEncoder, freeze

WARM = 4
Towers = Callable[[], tuple[DualEncoder, DualEncoder]]
KINDS = ("teacher cache", "no teacher")
READY = "live, ready batch"
ROUNDS = 3  # of one process; the published towers have one, of which a step takes 13 s on two cores


def fit(
    kind: str,
    records: list[Record],
    folder: Path,
    steps: int,
    batch: int,
    workers: int,
    cache: bool = True,
    towers: Towers = phantom_towers,
    warm: int = WARM,
    ready: bool = False,
) -> StepTimes:
    """Train some steps of one kind, on one ready batch without workers where asked, and return their times."""
    student, teacher = towers()
    loss = CLIPLoss() if kind == "no teacher" else SRKDLoss()
    module = TimedModule(student, None if kind == "no teacher" else teacher, loss, learning_rate=1e-4)
    times = StepTimes()
    callbacks: list[Callback] = [times]
    if kind == "teacher cache":
        callbacks.append(TeacherCache(str(folder / "teacher"), draws=1))
    squares = str(folder / "squares") if cache else None
    data = ListedData(records, batch_size=batch, num_workers=workers, cache=squares, zoom=0.3)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps + warm,
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        logger=CSVLogger(str(folder), name=kind),
        callbacks=callbacks,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if ready:
        data.bind(student.preprocessing, teacher.preprocessing)
        batches = [next(iter(data.train_dataloader()))] * (steps + warm)
        # Lightning takes a mere list for many loaders.
        trainer.fit(module, train_dataloaders=DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    else:
        trainer.fit(module, datamodule=data)
    # The first step has no beginning that is timed: of `steps + warm`, `steps` and `warm - 1` are.
    times.total, times.parts = times.total[-steps:], times.parts[-steps:]
    return times


def authors(records: list[Record], steps: int, batch: int, workers: int) -> list[float]:
    """Return the seconds of each step of the described way: Pillow views, both towers, their loss."""
    student, teacher = phantom_towers()
    freeze(teacher)
    tokens = tuple(model.tokenize(["fetal head at 24 weeks"])[0] for model in (student, teacher))
    paths = [record.image for record in records] * (1 + (steps + WARM + 1) * batch // len(records))
    pairs = AuthorsPairs(paths, student.preprocessing, teacher.preprocessing, tokens)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    seconds, last = [], time.perf_counter()
    student.train()
    for image, teacher_image, text, teacher_text in DataLoader(pairs, batch, num_workers=workers):
        own = (*student(image, text), student.logit_scale)
        with torch.no_grad():
            taught = (*teacher(teacher_image, teacher_text), teacher.logit_scale)
        optimizer.zero_grad()
        srkd_loss(own, taught).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
        if len(seconds) == steps + WARM:
            break
    return seconds[WARM:]


def towers_alone(records: list[Record], steps: int, batch: int, towers: Towers = phantom_towers) -> float:
    """Return the median seconds of both towers' forward and the student's backward pass on one ready batch."""
    student, teacher = towers()
    module = DistillationModule(student, teacher, SRKDLoss()).train()  # lays the models out as training does
    data = ListedData(records, batch_size=batch, num_workers=0, zoom=0.3)
    data.bind(student.preprocessing, teacher.preprocessing)
    ready = next(iter(data.train_dataloader()))
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


def batch_reading(records: list[Record], folder: Path, batch: int, towers: Towers = phantom_towers) -> float:
    """Return the median seconds of a core that reading and augmenting one batch takes, the cache being there."""
    student, teacher = towers()
    data = ListedData(records, batch_size=batch, num_workers=0, cache=str(folder / "squares"), zoom=0.3)
    data.bind(student.preprocessing, teacher.preprocessing)
    seconds = []
    with one_thread():
        last = time.perf_counter()
        for _ in data.train_dataloader():
            now = time.perf_counter()
            seconds.append(now - last)
            last = now
    return float(np.median(seconds))


def between(alone: Callable[[], float], live: Callable[[], StepTimes]) -> tuple[StepTimes, float]:
    """Time a training between two times of its towers alone, whose mean a drift of the machine moves alike."""
    before = alone()
    return live(), (before + alone()) / 2


def outside_rows(
    case: str,
    found: list[tuple[StepTimes, float]],
    note: str,
    ready: list[StepTimes] | None = None,
    reading: list[float] | None = None,
) -> list[Row]:
    """Return what a step takes beyond its towers: against the towers alone, and told apart from within.

    Args:
        case: At which size.
        found: What `between` returned in each round.
        note: What a reader has to know.
        ready: The times of the same step on a ready batch, where they were taken.
        reading: What `batch_reading` returned in each round, where it was measured.
    """
    times, alone = zip(*found, strict=True)
    step = np.array([np.median(own.total) for own in times])
    within = np.array([own.outside() for own in times])
    beyond = 1 - np.array(alone) / step
    beside = float(np.median(beyond - within))
    seconds = {"live": step, "towers alone": np.array(alone)}
    title = ("training step", f"{case}, live teacher")
    slower = f"{beside:.1%} is what the towers take longer than alone, "
    bound = ""
    if reading:
        share = float(np.median(np.array(reading) / step)) / usable_cores()
        bound = f"; reading a batch alone costs the cores {share:.1%} of the step"
    if ready:
        least = float(np.median(1 - np.array(alone) / [np.median(own.total) for own in ready]))
        # Below 0 when the towers alone, timed in another turn, were the slower ones.
        left = f"{least:.1%} are" if least > 0 else "nothing is"
        bound += f"; on a ready batch without workers {left} left"
    return [
        ONE_MINUS | make_row(
            *title, "of the step beyond the towers alone on a ready batch", beyond, target=0.05, better="lower",
            seconds=seconds, limit="towers alone", limit_values=step / np.array(alone), note=note,
            reason=slower + told_apart(list(times)) + bound,
        ),
        make_row(
            *title, "of the step outside the towers, timed within it", within, better="lower",
            note=told_apart(list(times)),
        ),
    ]  # fmt: skip


def measure(quick: bool) -> list[Row]:
    steps, batch, full_batch = (2, 4, 2) if quick else (10, 64, 8)
    workers = 1 if quick else usable_cores()
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records, what = training_records(folder, 64 if quick else 10 * batch)
        for kind in KINDS:  # fills the caches
            fit(kind, records, folder, 1, batch, workers)
        ways: dict[str, Callable[[], Any]] = {
            "live": lambda: between(
                lambda: towers_alone(records, steps, batch),
                lambda: fit("live", records, folder, steps, batch, workers),
            ),
            **{kind: partial(fit, kind, records, folder, steps, batch, workers) for kind in KINDS},
            READY: partial(fit, "live", records, folder, steps, batch, 0, ready=True),
            "reading": lambda: batch_reading(records, folder, batch),
            "authors": lambda: float(np.median(authors(records, steps, batch, workers))),
        }
        found = in_turns(ways, 1 if quick else ROUNDS)

        def published() -> tuple[DualEncoder, DualEncoder]:
            return published_student(quick), published_teacher(quick)

        full = between(
            lambda: towers_alone(records, 2, full_batch, published),
            lambda: fit("live", records, folder, 2, full_batch, workers, False, published, warm=2),
        )
    steps_of = {"live": [times for times, _ in found["live"]], **{kind: found[kind] for kind in KINDS}}
    step = {kind: np.array([np.median(own.total) for own in times]) for kind, times in steps_of.items()}
    seconds = {**step, "authors": np.array(found["authors"])}
    case = f"phantom towers, batch {batch}, {workers} workers"
    note = f"{steps} steps a round, {what}; a teacher of the student's own size"
    return [
        *outside_rows(case, found["live"], note, found[READY], found["reading"]),
        *outside_rows(
            f"published towers, batch {full_batch}, {workers} workers", [full],
            f"MobileCLIP2-S0 at 256 px beside ViT-L/14 at 224, random weights, 2 steps a round, {what}",
        ),
        make_row(
            "training step", f"{case}, live teacher", "times faster than the authors' way",
            seconds["authors"] / step["live"], seconds=seconds, note=note,
        ),
        make_row(
            "training step", f"{case}, teacher cache", "times the step without a teacher",
            step["teacher cache"] / step["no teacher"], target=1.1, better="lower", seconds=seconds,
            note=f"{note}; on disk: 1.5 KB a draw, image and text at D = 192 in float32",
        ),
    ]  # fmt: skip


def training_records(folder: Path, count: int) -> tuple[list[Record], str]:
    records, what = head_records(folder / "images", count)
    return [
        Record(
            "hc18",
            f"{i}_HC.png",
            r.image,
            str(i),
            "brain",
            None,
            r.hc_mm,
            r.pixel_size_mm,
            160,
            split="train",
        )
        for i, r in enumerate(records)
    ], what


if __name__ == "__main__":
    command("training_step", measure, __doc__)
