"""The bytes of a step, as computed, are those that processes exchange."""

import json

import pytest
import torch

from benchmarks._communication import received, reduced
from losses import Embeddings, SRKDLoss
from tests.losses.loss_cases import STUDENT_DIM, TEACHER_DIM, make_batch, make_teacher
from tests.metrics.two_processes import run_in_processes

PAIRS = 3


def count(rank, world, out):
    """Count what this process gathers in a loss over 3 pairs of each process, in float32 as in training."""
    rows = []
    gather = torch.distributed.all_gather

    def counted(parts, mine, *args, **kwargs):
        rows.append(mine.nbytes)
        return gather(parts, mine, *args, **kwargs)

    exchanged = []
    scatter = (
        torch.distributed.scatter
    )  # gloo's way to the gradients: one from each process, its own included

    def counted_scatter(mine, *args, **kwargs):
        exchanged.append(mine.nbytes)
        return scatter(mine, *args, **kwargs)

    torch.distributed.all_gather, torch.distributed.scatter = counted, counted_scatter
    student = make_batch(PAIRS, dtype=torch.float32, seed=rank)
    teacher = make_teacher(PAIRS, dtype=torch.float32, seed=rank)
    ids = Embeddings(student.image, student.text, student.logit_scale, None, student.caption_id)
    SRKDLoss(mask_duplicates=True)(ids, teacher)["total"].backward()
    (out / f"{rank}.json").write_text(json.dumps([rows, exchanged]))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_receive_what_the_table_says(tmp_path, world):
    run_in_processes(world, count, tmp_path, world, tmp_path)
    said = received(PAIRS, world, STUDENT_DIM, TEACHER_DIM)
    backward = said.pop("gradients of embeddings")
    for rank in range(world):
        rows, exchanged = json.loads((tmp_path / f"{rank}.json").read_text())
        assert (world - 1) * sum(rows) == sum(said.values())
        assert (world - 1) * sum(exchanged) // world == backward


def test_one_process_receives_nothing():
    assert sum(received(512, 1, 512, 768).values()) == reduced(10**6, 1) == 0
    assert reduced(10**6, 4) == 6 * 10**6
