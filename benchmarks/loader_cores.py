"""Training the phantom's student on a CPU beside two data workers: with all threads, or with cores left for them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks._material import ListedData, head_records, phantom_towers
from benchmarks._record import Row, interleave
from lightning_modules import DistillationModule
from losses import SRKDLoss

WORKERS, BATCH = 2, 48


def measure(quick: bool) -> list[Row]:
    batches, rounds = (2, 1) if quick else (24, 3)
    threads = torch.get_num_threads()
    left = max(1, threads - WORKERS)  # as `callbacks.LoaderCores` leaves
    student, teacher = phantom_towers()
    module = DistillationModule(student, teacher, SRKDLoss()).train()
    kept = torch.nn.functional.normalize(torch.randn(BATCH, 2, teacher.embed_dim), dim=-1)
    with tempfile.TemporaryDirectory() as name:
        records, what = head_records(Path(name) / "images", BATCH * batches)
        data = ListedData(records, batch_size=BATCH, num_workers=WORKERS, cache=str(Path(name) / "cache"))
        data.bind(student.preprocessing, teacher.preprocessing, asks_teacher=False)
        loader = data.train_dataloader()

        def epoch(count: int) -> None:
            torch.set_num_threads(count)
            for batch in loader:
                module.compute_loss(batch | {"teacher_embedding": kept})["total"].backward()
                module.zero_grad()

        ways = {f"{count} threads": count for count in (threads, left)}
        seconds = interleave({way: lambda count=count: epoch(count) for way, count in ways.items()}, rounds)
    ratio = seconds[f"{threads} threads"] / seconds[f"{left} threads"]
    note = f"{batches} batches of {BATCH} from {WORKERS} workers with decoded images in the cache: {what}"
    case = f"phantom's student, {left} of {threads} threads"
    return [Row("loader's cores", case, "times faster than all threads", ratio, seconds=seconds, note=note)]
