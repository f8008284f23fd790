"""The training step with the phantom preset's towers: what is spent outside them, and what the teacher costs.

A step is the time from one batch's end to the next one's end in Lightning's own loop: waiting for data, towers,
loss, clipping, optimiser, logging. The towers' part is timed inside the same step: both forward passes between
module hooks, and the backward pass from the moment the embeddings' gradients are known.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from benchmarks._material import head_records, phantom_towers
from benchmarks._record import Row, command, make_row
from benchmarks.baselines.loss_authors import srkd_loss
from benchmarks.baselines.pipeline_authors import AuthorsPairs
from callbacks import TeacherCache
from datamodules import FetalDataModule
from datamodules.record import Record
from lightning_modules import DistillationModule
from losses import CLIPLoss, SRKDLoss
from models import freeze

WARM = 4
KINDS = ("live", "teacher cache", "no teacher")


class Heads(FetalDataModule):
    """Training images from a list of records."""

    def __init__(self, records: list[Record], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._listed = records

    def read_records(self) -> list[Record]:
        return self._listed


class TimedModule(DistillationModule):
    """Add up the seconds of the towers' own passes."""

    towers = 0.0
    gradients_known: float | None = None

    def embeddings(self, batch: dict[str, Any], role: str) -> Any:
        start = time.perf_counter()
        found = super().embeddings(batch, role)
        self.towers += time.perf_counter() - start
        if role == "student":
            for part in (found.image, found.text):
                part.register_hook(self._note)
        return found

    def _note(self, _: torch.Tensor) -> None:
        if self.gradients_known is None:
            self.gradients_known = time.perf_counter()

    def on_after_backward(self) -> None:
        assert self.gradients_known is not None
        self.towers += time.perf_counter() - self.gradients_known
        self.gradients_known = None


class StepTimes(Callback):
    """Seconds of each step and of its towers."""

    def __init__(self) -> None:
        self.total: list[float] = []
        self.towers: list[float] = []
        self._last: float | None = None

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.total.append(now - self._last)
            self.towers.append(module.towers)
        self._last, module.towers = now, 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._last = None  # the epoch's own work lies between


def fit(
    kind: str, records: list[Record], folder: Path, steps: int, batch: int, workers: int, cache: bool = True
) -> StepTimes:
    """Train some steps of one kind and return their times."""
    student, teacher = phantom_towers()
    loss = CLIPLoss() if kind == "no teacher" else SRKDLoss()
    module = TimedModule(student, None if kind == "no teacher" else teacher, loss, learning_rate=1e-4)
    times = StepTimes()
    callbacks: list[Callback] = [times]
    if kind == "teacher cache":
        callbacks.append(TeacherCache(str(folder / "teacher"), draws=1))
    squares = str(folder / "squares") if cache else None
    data = Heads(records, batch_size=batch, num_workers=workers, cache=squares, zoom=0.3)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps + WARM,
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        logger=CSVLogger(str(folder), name=kind),
        callbacks=callbacks,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    times.total, times.towers = times.total[WARM:], times.towers[WARM:]
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


def measure(quick: bool) -> list[Row]:
    steps, batch, rounds = (2, 4, 1) if quick else (20, 64, 4)
    workers = 1 if quick else os.cpu_count() or 1
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kinds: dict[str, list[StepTimes]] = {kind: [] for kind in KINDS}
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records, what = training_records(folder, 64 if quick else 10 * batch)
        for kind in KINDS:  # fills the caches
            fit(kind, records, folder, 1, batch, workers)
        for _ in range(rounds):
            for kind in KINDS:
                kinds[kind].append(fit(kind, records, folder, steps, batch, workers))
            theirs.append(float(np.median(authors(records, steps, batch, workers))))
    step = {kind: np.array([np.median(t.total) for t in times]) for kind, times in kinds.items()}
    outside = {
        kind: np.array([1 - np.sum(t.towers) / np.sum(t.total) for t in times])
        for kind, times in kinds.items()
    }
    seconds = {**step, "authors": np.array(theirs)}
    case = f"phantom towers, batch {batch}, {workers} workers"
    note = f"{steps} steps a round, {what}; a teacher of the student's own size"
    return [
        make_row(
            "training step", f"{case}, live teacher", "of the step outside the towers", outside["live"],
            target=0.05, better="lower", seconds=seconds, limit="towers alone",
            limit_values=1 / (1 - outside["live"]), note=note,
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
