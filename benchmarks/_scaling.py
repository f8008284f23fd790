"""Check the cost model of `benchmarks._communication` on 1, 2 and 4 gloo processes: ``python -m benchmarks._scaling``.

Processes have one thread each and share this machine's cores, so the figures are CPU seconds of a process, which
waiting does not count: with more processes than cores, wall time is at least ``processes / cores`` times as long. The
model's speeds come from 1 process, its link from the reduction on 2; all other figures check it.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import normalize

from benchmarks._communication import Speed, step_seconds
from benchmarks._material import ListedData, head_records, phantom_towers
from datamodules.cores import usable_cores
from lightning_modules import DistillationModule
from losses import Embeddings, SRKDLoss

PAIRS, LOSS_PAIRS = 16, 256  # of each process: in the step, and in the loss, which costs nothing with 16
STUDENT_DIM, TEACHER_DIM = 512, 768  # of the published towers, in the loss
STEPS, ROUNDS = 5, 3  # the first step is not counted
Seconds = dict[str, list[float]]
multiprocessing.set_forkserver_preload(["lightning_modules", "benchmarks._material"])  # the imports, once


@contextmanager
def clock(seconds: Seconds, part: str) -> Iterator[None]:
    """Add the CPU seconds of this process, all its threads, to a part."""
    start = time.process_time()
    yield
    seconds[part].append(time.process_time() - start)


def time_towers(records: Any, pairs: int) -> Seconds:
    """Return the seconds of steps with the phantom's towers; the loss is a random upstream gradient."""
    student, teacher = models = phantom_towers()
    module = DistillationModule(student, teacher, SRKDLoss()).train()
    data = ListedData(records, batch_size=pairs, num_workers=0, zoom=0.3)
    data.bind(*(model.preprocessing for model in models))
    batches: Any = iter(data.train_dataloader())
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    upstream = torch.randn(2, pairs, student.embed_dim) / pairs
    gradients = torch.zeros(sum(p.numel() for p in student.parameters()))
    seconds: Seconds = defaultdict(list)
    for _ in range(STEPS):
        with clock(seconds, "own pairs"):
            batch = next(batches)
            with torch.no_grad():
                module.embeddings(batch, "teacher")
            embedded = module.embeddings(batch, "student")
            torch.autograd.backward((embedded.image, embedded.text), tuple(upstream))
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if dist.get_world_size() > 1:
            with clock(seconds, "reduction"):
                dist.all_reduce(gradients)
    return seconds


def time_loss(pairs: int) -> Seconds:
    """Return the seconds of the loss over random embeddings, forward and backward, and of its collectives."""
    seconds: Seconds = defaultdict(list)
    spent: Seconds = defaultdict(list)

    def timed(collective: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            with clock(spent, "gathers"):
                return collective(*args, **kwargs)

        return run

    generator, scale = torch.Generator().manual_seed(dist.get_rank()), torch.tensor(30.0)
    names = ("all_gather", "scatter", "all_reduce")
    with mock.patch.multiple(dist, **{name: timed(getattr(dist, name)) for name in names}):
        for _ in range(STEPS):
            student, teacher = (
                [normalize(torch.randn(pairs, dim, generator=generator), dim=1).requires_grad_() for _ in range(2)]
                for dim in (STUDENT_DIM, TEACHER_DIM)
            )  # fmt: skip
            taught = Embeddings(*(rows.detach() for rows in teacher), scale)
            spent.clear()
            with clock(seconds, "loss"):
                SRKDLoss()(Embeddings(*student, scale), taught)["total"].backward()
            seconds["gathers"].append(sum(spent["gathers"]))
            seconds["loss"][-1] -= seconds["gathers"][-1]
    return seconds


def work(rank: int, world: int, records: Any, folder: str, pairs: int) -> None:
    """Time all parts in one process, and write them to a file of its own."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    seconds = time_towers(records, pairs) | time_loss(LOSS_PAIRS * pairs // PAIRS)
    dist.destroy_process_group()
    (Path(folder) / f"{rank}.json").write_text(json.dumps({k: v[1:] for k, v in seconds.items()}))


def measure(records: Any, world: int, pairs: int) -> Seconds:
    """Return the CPU seconds of each part in all steps of all processes."""
    seconds: Seconds = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            work, args=(world, records, folder, pairs), nprocs=world, start_method="forkserver"
        )
        for path in Path(folder).glob("*.json"):
            for part, values in json.loads(path.read_text()).items():
                seconds[part] += values
    return seconds


def main() -> None:
    """Fit the model, and print what each number of processes takes beside what the model says."""
    found: dict[tuple[int, int], Seconds] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        records, _ = head_records(Path(folder), 4 * PAIRS * STEPS)
        parameters = sum(p.numel() for p in phantom_towers()[0].parameters())
        for _ in range(ROUNDS):  # in turns: a busy machine slows all alike
            for world, pairs in ((1, PAIRS), (2, PAIRS), (4, PAIRS), (1, PAIRS // 2)):
                for part, values in measure(records, world, pairs).items():
                    found[world, pairs][part] += values
    median = {key: {p: float(np.median(v)) for p, v in parts.items()} for key, parts in found.items()}
    one = median[1, PAIRS]
    each = (one["own pairs"] - median[1, PAIRS // 2]["own pairs"]) / (PAIRS / 2)
    operations = 2 * LOSS_PAIRS**2 * (3 * STUDENT_DIM + TEACHER_DIM)
    link = parameters * 4 / median[2, PAIRS]["reduction"]  # a ring of two receives each gradient once
    speed = Speed(1 / each, one["own pairs"] - PAIRS * each, link, operations / one["loss"])
    print(f"{speed}; {parameters / 1e6:.1f} million parameters; {usable_cores()} cores\n")
    print("| processes | own pairs | loss | gathers | reduction | step |")
    for world in (1, 2, 4):
        parts = {"gathers": 0.0, "reduction": 0.0} | median[world, PAIRS]
        towers = step_seconds(PAIRS, world, 0, 0, parameters, speed)
        loss = step_seconds(LOSS_PAIRS, world, STUDENT_DIM, TEACHER_DIM, 0, speed)
        model = {part: (loss if part in ("loss", "gathers") else towers)[part] for part in towers}
        parts["step"], model["step"] = (sum(side[part] for part in towers) for side in (parts, model))
        cells = [
            f"{1e3 * parts[part]:.1f} ({1e3 * said:.1f}, {parts[part] / said - 1:+.0%})" if said else "0"
            for part, said in model.items()
        ]
        print(f"| {world} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
