"""The training step: the time spent beside the towers, and the cost of the teacher.

A step is the time from one batch's end to the next in Lightning's loop: waiting for data, towers, loss, clipping,
optimiser, logging. It is compared with forward and backward of the same towers alone on a ready batch, timed in the
same turns. The towers are the phantom preset's, and once the published ones: MobileCLIP2-S0 beside ViT-L/14.
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
from lightning import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from benchmarks._authors import AuthorsPairs, srkd_loss
from benchmarks._material import ListedData, Towers, head_records, phantom_towers, published_towers
from benchmarks._record import Row, in_turns
from callbacks import TeacherCache
from datamodules.cores import usable_cores
from datamodules.record import Record
from lightning_modules import DistillationModule
from losses import CLIPLoss, SRKDLoss
from models import freeze

WARM = 4  # steps before the timed ones


def fit(
    kind: str, towers: Callable[[], Towers], records: list[Record], folder: Path, steps: int, batch: int, workers: int
) -> float:  # fmt: skip
    """Train and return the median seconds of a step, from one end to the next.

    Args:
        kind: "live", "teacher cache" or "no teacher".
        towers: Makes student and teacher.
        records: Images.
        folder: Folder of caches and logs.
        steps: Number of timed steps.
        batch: Images per step.
        workers: Workers of the data loader.
    """
    student, teacher = towers()
    if kind == "no teacher":
        teacher = None
    module = DistillationModule(student, teacher, SRKDLoss() if teacher else CLIPLoss(), learning_rate=1e-4)
    ends: list[float] = []
    clock = LambdaCallback(on_train_batch_end=lambda *_: ends.append(time.perf_counter()))
    kept = [TeacherCache(str(folder / "teacher"))] if kind == "teacher cache" else []
    data = ListedData(
        records, batch_size=batch, num_workers=workers, cache=str(folder / "squares"), zoom=0.3,
        draws=1 if kept else None,
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_steps=steps + WARM, gradient_clip_val=1.0, log_every_n_steps=10,
        logger=CSVLogger(str(folder), name=kind), callbacks=[clock, *kept], limit_val_batches=0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return float(np.median(np.diff(ends)[-steps:]))


def authors(records: list[Record], steps: int, batch: int, workers: int) -> float:
    """Return the median seconds of a step of the described way: Pillow views, both towers, their loss."""
    student, teacher = models = phantom_towers()
    freeze(teacher)
    tokens = [model.tokenize(["fetal head at 24 weeks"])[0] for model in models]
    paths = [records[i % len(records)].image for i in range((steps + WARM + 1) * batch)]
    pairs = AuthorsPairs(paths, [model.preprocessing for model in models], tokens)
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
    return float(np.median(np.diff(ends)[-steps:]))


def towers_alone(towers: Callable[[], Towers], records: list[Record], steps: int, batch: int) -> float:
    """Return the median seconds of both towers' forward and the student's backward pass on one ready batch."""
    student, teacher = models = towers()
    module = DistillationModule(student, teacher, SRKDLoss()).train()  # lays out the models as training does
    data = ListedData(records, batch_size=batch, num_workers=0, zoom=0.3)
    data.bind(*(model.preprocessing for model in models))
    ready: Any = next(iter(data.train_dataloader()))
    upstream = torch.randn(2, batch, student.embed_dim) / batch
    ends = [time.perf_counter()]
    for _ in range(steps + 1):
        embedded = module.embeddings(ready, "student")
        with torch.no_grad():
            module.embeddings(ready, "teacher")
        torch.autograd.backward((embedded.image, embedded.text), tuple(upstream))
        student.zero_grad()
        ends.append(time.perf_counter())
    return float(np.median(np.diff(ends)[-steps:]))


def time_ways(
    kinds: tuple[str, ...], towers: Callable[[], Towers], records: list[Record], steps: int, batch: int,
    workers: int, rounds: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the seconds of a step of each way in each round."""
    with tempfile.TemporaryDirectory() as folder:
        training = {k: partial(fit, k, towers, records, Path(folder), steps, batch, workers) for k in kinds}
        for kind in kinds[1:]:  # fills the caches
            training[kind]()
        ways = {**training, "towers alone": partial(towers_alone, towers, records, steps, batch)}
        if towers is phantom_towers:
            ways["authors"] = partial(authors, records, steps, batch, workers)
        return {name: np.array(found) for name, found in in_turns(ways, rounds).items()}


def beyond_row(case: str, seconds: dict[str, np.ndarray], note: str) -> Row:
    """Return the row of the share of a "live" step beyond the "towers alone", from the seconds of each round."""
    alone = seconds["towers alone"]
    return Row(
        "training step", f"{case}, live teacher", "of the step beyond the towers alone on a ready batch",
        1 - alone / seconds["live"], target=0.05, better="lower", seconds=seconds, limit="towers alone",
        times_limit=seconds["live"] / alone, note=note,
    )  # fmt: skip


def measure(quick: bool) -> list[Row]:
    steps, batch, few = (2, 4, 2) if quick else (10, 64, 8)
    workers, rounds = (1, 1) if quick else (usable_cores(), 3)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    with tempfile.TemporaryDirectory() as folder:
        records, what = head_records(Path(folder), 64 if quick else 10 * batch)
        kinds = "live", "teacher cache", "no teacher"
        own = time_ways(kinds, phantom_towers, records, steps, batch, workers, rounds)
        # A step of the published towers takes 13 s on two cores.
        published = time_ways(("live",), partial(published_towers, quick), records, 2, few, workers, 1)
    case = f"phantom towers, batch {batch}, {workers} workers"
    note = f"{steps} steps a round, {what}; a teacher of the student's own size"
    return [
        beyond_row(case, own, note),
        beyond_row(
            f"published towers, batch {few}, {workers} workers", published,
            f"MobileCLIP2-S0 at 256 px beside ViT-L/14 at 224, random weights, 2 steps a round, {what}",
        ),
        Row(
            "training step", f"{case}, live teacher", "times faster than the authors' way",
            own["authors"] / own["live"], seconds=own, note=note,
        ),
        Row(
            "training step", f"{case}, teacher cache", "times the step without a teacher",
            own["teacher cache"] / own["no teacher"], target=1.1, better="lower", seconds=own,
            note=f"{note}; on disk: 1.5 KB a draw, image and text at D = 192 in float32",
        ),
    ]  # fmt: skip
