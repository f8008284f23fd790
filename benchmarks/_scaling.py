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
WARM, STEPS, ROUNDS = 1, 4, 3
OWN = ("data", "teacher", "student", "backward", "optimiser")
Seconds = dict[str, list[float]]
multiprocessing.set_forkserver_preload(["lightning_modules", "benchmarks._material"])  # the imports, once


@contextmanager
def clock(seconds: Seconds, part: str) -> Iterator[None]:
    """Add the CPU seconds of this process, all its threads, to a part."""
    start = time.process_time()
    yield
    seconds[part].append(time.process_time() - start)


def time_towers(records: Any, pairs: int, steps: int) -> Seconds:
    """Return the seconds of each part of steps with the phantom's towers; the loss is a random upstream gradient."""
    student, teacher = models = phantom_towers()
    module = DistillationModule(student, teacher, SRKDLoss()).train()
    data = ListedData(records, batch_size=pairs, num_workers=0, zoom=0.3)
    data.bind(*(model.preprocessing for model in models))
    batches: Any = iter(data.train_dataloader())
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    upstream = torch.randn(2, pairs, student.embed_dim) / pairs
    seconds: Seconds = defaultdict(list)
    for _ in range(steps):
        with clock(seconds, "data"):
            batch = next(batches)
        with clock(seconds, "teacher"), torch.no_grad():
            module.embeddings(batch, "teacher")
        with clock(seconds, "student"):
            embedded = module.embeddings(batch, "student")
        with clock(seconds, "backward"):
            torch.autograd.backward((embedded.image, embedded.text), tuple(upstream))
        found = [p.grad for p in student.parameters() if p.grad is not None]
        if dist.get_world_size() > 1:
            flat = torch.cat([gradient.flatten() for gradient in found])
            with clock(seconds, "reduction"):
                dist.all_reduce(flat)
        with clock(seconds, "optimiser"):
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return seconds


def time_loss(pairs: int, steps: int) -> Seconds:
    """Return the seconds of the loss over random embeddings, forward and backward, and of its collectives."""
    seconds: Seconds = defaultdict(list)
    spent: Seconds = defaultdict(list)
    names = ("all_gather", "scatter", "all_reduce")
    plain = {name: getattr(dist, name) for name in names}

    def timed(name: str) -> Any:
        def collective(*args: Any, **kwargs: Any) -> Any:
            with clock(spent, "gathers"):
                return plain[name](*args, **kwargs)

        return collective

    generator, scale = torch.Generator().manual_seed(dist.get_rank()), torch.tensor(30.0)
    for name in names:
        setattr(dist, name, timed(name))
    for _ in range(steps):
        student, teacher = (
            Embeddings(*(normalize(torch.randn(pairs, dim, generator=generator), dim=1) for _ in range(2)), scale)
            for dim in (STUDENT_DIM, TEACHER_DIM)
        )  # fmt: skip
        for rows in (student.image, student.text):
            rows.requires_grad_()
        spent.clear()
        with clock(seconds, "loss"):
            SRKDLoss()(student, teacher)["total"].backward()
        seconds["gathers"].append(sum(spent["gathers"]))
        seconds["loss"][-1] -= seconds["gathers"][-1]
    for name in names:
        setattr(dist, name, plain[name])
    return seconds


def work(rank: int, world: int, records: Any, folder: str, steps: int, pairs: int, loss_pairs: int) -> None:
    """Time all parts in one process, and write them to a file of its own."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    seconds = time_towers(records, pairs, steps + WARM) | time_loss(loss_pairs, steps + WARM)
    dist.destroy_process_group()
    (Path(folder) / f"{rank}.json").write_text(json.dumps({k: v[WARM:] for k, v in seconds.items()}))


def measure(
    records: Any, world: int, steps: int, pairs: int = PAIRS, loss_pairs: int = LOSS_PAIRS
) -> Seconds:
    """Return the CPU seconds of each part in all steps of all processes."""
    seconds: Seconds = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world, records, folder, steps, pairs, loss_pairs)
        mp.start_processes(work, args=arguments, nprocs=world, start_method="forkserver")
        for path in Path(folder).glob("*.json"):
            for part, values in json.loads(path.read_text()).items():
                seconds[part] += values
    return seconds


def main() -> None:
    """Fit the model, and print what each number of processes takes beside what the model says."""
    found: dict[tuple[int, int], Seconds] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        records, _ = head_records(Path(folder), 4 * PAIRS * (STEPS + WARM))
        parameters = sum(p.numel() for p in phantom_towers()[0].parameters())
        for _ in range(ROUNDS):  # in turns: a busy machine slows all alike
            for world, pairs in ((1, PAIRS), (2, PAIRS), (4, PAIRS), (1, PAIRS // 2)):
                for part, values in measure(
                    records, world, STEPS, pairs, LOSS_PAIRS * pairs // PAIRS
                ).items():
                    found[world, pairs][part] += values
    median = {key: {p: float(np.median(v)) for p, v in parts.items()} for key, parts in found.items()}
    one, half, two = median[1, PAIRS], median[1, PAIRS // 2], median[2, PAIRS]
    own, own_half = (sum(parts[part] for part in OWN) for parts in (one, half))
    each = (own - own_half) / (PAIRS / 2)
    operations = 2 * LOSS_PAIRS**2 * (3 * STUDENT_DIM + TEACHER_DIM)
    link = parameters * 4 / two["reduction"]  # a ring of two receives every parameter's gradient once
    speed = Speed(1 / each, own - PAIRS * each, link, operations / one["loss"])
    print(f"{speed}; {parameters / 1e6:.1f} million parameters; {usable_cores()} cores\n")
    print("| processes | " + " | ".join((*OWN, "own pairs", "loss", "gathers", "reduction", "step")) + " |")
    for world in (1, 2, 4):
        parts = {"gathers": 0.0, "reduction": 0.0} | median[world, PAIRS]
        parts["own pairs"] = sum(parts[part] for part in OWN)
        model = {
            "own pairs": step_seconds(PAIRS, world, 0, 0, 0, speed)["own pairs"],
            **{k: step_seconds(LOSS_PAIRS, world, STUDENT_DIM, TEACHER_DIM, 0, speed)[k] for k in ("loss", "gathers")},
            "reduction": step_seconds(PAIRS, world, 0, 0, parameters, speed)["reduction"],
        }  # fmt: skip
        cells = [f"{1e3 * parts[part]:.1f}" for part in OWN]
        for part, said in model.items():
            off = f", {parts[part] / said - 1:+.0%}" if said else ""
            cells.append(f"{1e3 * parts[part]:.1f} ({1e3 * said:.1f}{off})" if said else "0")
        measured, said = (1e3 * sum(part[name] for name in model) for part in (parts, model))
        print(f"| {world} | {' | '.join(cells)} | {measured:.0f} ({said:.0f}, {measured / said - 1:+.0%}) |")


if __name__ == "__main__":
    main()
