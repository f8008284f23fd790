"""The bytes of a step, as computed, are those that processes exchange."""

import json
import sys
from itertools import product

import pytest
import torch

from benchmarks._communication import Speed, main, received, reduced, step_seconds
from benchmarks._table import RESULTS
from losses import Embeddings, SRKDLoss
from tests.losses.loss_cases import STUDENT_DIM, TEACHER_DIM, make_batch, make_teacher
from tests.metrics.two_processes import run_in_processes

PAIRS = 3


def count(rank, world, out):
    """Count what this process gathers in a loss over 3 pairs of each process, in float32 as in training."""
    # gloo's way to the gradients is a scatter: one from each process, its own included.
    sizes = {"all_gather": [], "scatter": [], "all_reduce": []}

    def counted(name):
        collective, position = getattr(torch.distributed, name), int(name == "all_gather")

        def run(*args, **kwargs):
            sizes[name].append(args[position].nbytes)
            return collective(*args, **kwargs)

        return run

    for name in sizes:
        setattr(torch.distributed, name, counted(name))
    student = make_batch(PAIRS, dtype=torch.float32, seed=rank)
    teacher = make_teacher(PAIRS, dtype=torch.float32, seed=rank)
    ids = Embeddings(student.image, student.text, student.logit_scale, None, student.caption_id)
    for fused in (True, False):
        SRKDLoss(mask_duplicates=not fused)(ids, teacher)["total"].backward()
        (out / f"{rank}-{fused}.json").write_text(json.dumps(sizes))
        for found in sizes.values():
            found.clear()


@pytest.mark.parametrize("world", [2, 4])
def test_processes_receive_what_the_table_says(tmp_path, world):
    run_in_processes(world, count, tmp_path, world, tmp_path)
    for fused, rank in product((True, False), range(world)):
        said = received(PAIRS, world, STUDENT_DIM, TEACHER_DIM, fused)
        backward, ring = said.pop("gradients of embeddings"), said.pop("reduced sums")
        rows, exchanged, sums = json.loads((tmp_path / f"{rank}-{fused}.json").read_text()).values()
        assert (world - 1) * sum(rows) == sum(said.values())
        assert (world - 1) * sum(exchanged) // world == backward
        large = sum(size for size in sums if size >= 4 * PAIRS * world)  # flags and logged terms are smaller
        assert 2 * (world - 1) * large // world == ring


def test_one_process_receives_nothing():
    assert sum(received(512, 1, 512, 768).values()) == reduced(10**6, 1) == 0
    assert reduced(10**6, 4) == 6 * 10**6


def test_the_seconds_of_a_step():
    """10 pairs of 4 processes, 3 and 2 dimensions, 1,000 parameters, counted by hand."""
    speed = Speed(pairs=100, fixed=0.5, link=1000, loss=1e4)
    parts = step_seconds(10, 4, 3, 2, 1000, speed)
    # Logits of student and teacher, gradients in the student's images and texts: a multiplication and an addition each.
    products = 2 * 10 * 40 * (3 + 2 + 3 + 3)
    # From 30 other pairs: texts of 3 and 2 numbers, an id as long as 2, 2 sums, 3 gradients; 3 sums round the ring.
    numbers = 30 * (3 + 2 + 2 + 2 + 3) + 2 * 3 * 30
    expected = {"own pairs": 0.6, "loss": products / 1e4, "gathers": 4 * numbers / 1000, "reduction": 6.0}
    assert parts == pytest.approx(expected)
    alone = step_seconds(10, 1, 3, 2, 1000, speed)
    assert (alone["gathers"], alone["reduction"], alone["own pairs"]) == (0, 0, parts["own pairs"])
    assert alone["loss"] == pytest.approx(parts["loss"] / 4)


def test_the_published_card_is_projected(monkeypatch, capsys):
    """One process with a batch of 512 computes as many images/s as the card did."""
    path = RESULTS / "gpu.json"
    speeds = json.loads(path.read_text())["facts"]["images_per_s"]
    measured = speeds.get("live, compiled", speeds["live, eager"])
    monkeypatch.setattr(sys, "argv", ["_communication", f"--gpu={path}"])
    main()
    one = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 | 512 |"))
    assert int(one.split("|")[-3].replace(",", "")) == pytest.approx(
        measured, rel=0.02
    )  # the loss counts twice
