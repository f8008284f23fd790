"""The training step: what is spent outside the towers, and what the teacher costs.

A step is the time from one batch's end to the next one's end in Lightning's own loop: waiting for data, towers,
loss, clipping, optimiser, logging. The towers' part is timed inside the same step: both forward passes between
module hooks, and the backward pass from the moment the embeddings' gradients are known. The rest is told apart too.

The towers are the phantom preset's, and once the published ones: MobileCLIP2-S0 beside ViT-L/14, random weights.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from benchmarks._material import head_records, phantom_towers, published_student, published_teacher
from benchmarks._record import Row, command, make_row
from benchmarks.baselines.loss_authors import srkd_loss
from benchmarks.baselines.pipeline_authors import AuthorsPairs
from callbacks import TeacherCache
from datamodules import FetalDataModule
from datamodules.record import Record
from lightning_modules import DistillationModule
from losses import CLIPLoss, SRKDLoss
from models import DualEncoder, freeze

WARM = 4
OTHER = "Lightning and logging"
KINDS = ("live", "teacher cache", "no teacher")


class Heads(FetalDataModule):
    """Training images from a list of records."""

    def __init__(self, records: list[Record], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._listed = records

    def read_records(self) -> list[Record]:
        return self._listed


class TimedModule(DistillationModule):
    """Add up the seconds of a step's parts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parts: Counter[str] = Counter()
        self.mark = 0.0
        self.gradients_known = False

    def until_now(self, part: str) -> None:
        """Count the time since the last mark as this part's."""
        now = time.perf_counter()
        self.parts[part] += now - self.mark
        self.mark = now

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.mark = time.perf_counter()
        return super().training_step(batch, batch_idx)

    def embeddings(self, batch: dict[str, Any], role: str) -> Any:
        self.until_now("loss")
        found = super().embeddings(batch, role)
        self.until_now("towers")
        if role == "student":
            for part in (found.image, found.text):
                part.register_hook(self._note)
        return found

    def compute_loss(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        terms = super().compute_loss(batch)
        self.until_now("loss")
        return terms

    def on_before_backward(self, _: torch.Tensor) -> None:
        self.until_now(OTHER)

    def _note(self, _: torch.Tensor) -> None:
        if not self.gradients_known:
            self.until_now("loss")
        self.gradients_known = True

    def on_after_backward(self) -> None:
        self.until_now("towers")
        self.gradients_known = False

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.until_now("clipping and optimiser")


class StepTimes(Callback):
    """Seconds of each step and of its parts."""

    def __init__(self) -> None:
        self.total: list[float] = []
        self.parts: list[Counter[str]] = []
        self._last: float | None = None
        self._waited = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._waited = 0.0 if self._last is None else time.perf_counter() - self._last

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.total.append(now - self._last)
            self.parts.append(module.parts | Counter({"waiting for data": self._waited}))
        self._last, module.parts = now, Counter()

    def on_train_epoch_start(self, *_: Any) -> None:
        self._last = None  # the epoch's own work lies between

    def outside(self) -> float:
        """Share of the steps that is not the towers'."""
        return 1 - sum(parts["towers"] for parts in self.parts) / sum(self.total)

    def shares(self) -> Counter[str]:
        """Share of the steps of each part outside the towers."""
        known = sum(self.parts, Counter())
        del known["towers"], known[OTHER]
        shares = Counter({part: seconds / sum(self.total) for part, seconds in known.items()})
        shares[OTHER] = self.outside() - shares.total()
        return shares


def fit(
    kind: str,
    records: list[Record],
    folder: Path,
    steps: int,
    batch: int,
    workers: int,
    cache: bool = True,
    towers: Callable[[], tuple[DualEncoder, DualEncoder]] = phantom_towers,
    warm: int = WARM,
) -> StepTimes:
    """Train some steps of one kind and return their times."""
    student, teacher = towers()
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
        full_batch = 2 if quick else 8
        full = [
            fit(
                "live",
                records,
                folder,
                2,
                full_batch,
                workers,
                False,
                lambda: published_towers(quick),
                warm=1,
            )
            for _ in range(rounds // 2 or 1)
        ]
    step = {kind: np.array([np.median(t.total) for t in times]) for kind, times in kinds.items()}
    outside = np.array([times.outside() for times in kinds["live"]])
    full_outside = np.array([times.outside() for times in full])
    full_seconds = {"live": np.array([np.median(times.total) for times in full])}
    seconds = {**step, "authors": np.array(theirs)}
    case = f"phantom towers, batch {batch}, {workers} workers"
    note = f"{steps} steps a round, {what}; a teacher of the student's own size"
    return [
        make_row(
            "training step", f"{case}, live teacher", "of the step outside the towers", outside,
            target=0.05, better="lower", seconds=seconds, limit="towers alone",
            limit_values=1 / (1 - outside), note=note, reason=told_apart(kinds["live"]),
        ),
        make_row(
            "training step", f"published towers, batch {full_batch}, {workers} workers, live teacher",
            "of the step outside the towers", full_outside, target=0.05, better="lower", seconds=full_seconds,
            limit="towers alone", limit_values=1 / (1 - full_outside), reason=told_apart(full),
            note=f"MobileCLIP2-S0 at 256 px beside ViT-L/14 at 224, random weights, 2 steps a round, {what}",
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


def told_apart(times: list[StepTimes]) -> str:
    """Say which parts make up what lies outside the towers, largest first."""
    shares: Counter[str] = sum((own.shares() for own in times), Counter())
    return ", ".join(f"{part} {share / len(times):.1%}" for part, share in shares.most_common())


def published_towers(quick: bool) -> tuple[DualEncoder, DualEncoder]:
    return published_student(quick), published_teacher(quick)


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
