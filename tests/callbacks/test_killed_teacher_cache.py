"""Kill -9 while the cache of teacher embeddings is filled: the next run uses right rows only, and ends the same."""

import os
import sys
from functools import partial
from itertools import product

import pytest
import torch

from datamodules import HC18DataModule
from datamodules.pairs.stores import RowStore, TeacherStore
from tests.callbacks.test_teacher_cache import REFILLED, cache_in, fit
from tests.kills import RandomKills, die, in_child, seconds_of, wrap

pytestmark = [pytest.mark.slow, pytest.mark.faults]
DRAWS, DIM = 2, 28
RANDOM_KILLS = 5


def run(root, folder, moment=lambda: None):
    """Return the task of training on a cache; the weights it ends with are in `folder`."""

    def task():
        moment()
        folder.mkdir(exist_ok=True)
        data = partial(HC18DataModule, evaluation_batch_size=10)  # that of the fill, which takes several
        _, module = fit(root, folder, cache_in(folder), data=data)
        torch.save(module.student.state_dict(), folder / "weights.pt")

    return task


def half_a_row(number):
    """Die with half of a row's numbers in the file, and, with an even number, half of its checksum."""
    whole, left = os.pwrite, [number]

    def pwrite(descriptor, part, place):
        left[0] -= 1
        if left[0]:
            return whole(descriptor, part, place)
        whole(descriptor, part[: len(part) // 2], place)
        return die()

    os.pwrite = pwrite


def rows(root, folder):
    images = len(HC18DataModule(root=str(root)).split("train"))
    (path,) = (folder / "store").iterdir()
    store = TeacherStore(path, DRAWS, images, DIM)
    return torch.stack([store.get(*key) for key in product(range(DRAWS), range(images))])


def check_next_run(root, folder, whole):
    """Train again; return whether rows and weights are those of the unbroken run, bit for bit."""
    assert not in_child(run(root, folder))
    pairs = [(rows(root, folder), rows(root, whole))]
    one, other = (torch.load(place / "weights.pt", weights_only=True) for place in (folder, whole))
    pairs += [(one[name], other[name]) for name in other]
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=REFILLED["rel"], atol=REFILLED["abs"])
    return all(torch.equal(*pair) for pair in pairs)


def test_killed_while_the_cache_is_filled(tiny_hc18, tmp_path):
    moments = {
        "before the space is reserved": partial(wrap, os, "posix_fallocate", 1, after=False),
        "after the space is reserved": partial(wrap, os, "posix_fallocate", 1, after=True),
        "first row": partial(wrap, RowStore, "write", 1, after=True),
        "between two batches": partial(wrap, TeacherStore, "put", 2, after=True),
        "row without checksum": partial(wrap, os, "pwrite", 15, after=True),
        "half a row": partial(half_a_row, 15),
        "half a checksum": partial(half_a_row, 16),
        "last batch": partial(wrap, TeacherStore, "put", 4, after=True),
    }
    kill, same = RandomKills(seconds_of(run(tiny_hc18, tmp_path / "whole"))), 0
    for name, moment in moments.items():
        assert in_child(run(tiny_hc18, tmp_path / name, moment)), f"{name}: the moment comes"
        same += check_next_run(tiny_hc18, tmp_path / name, tmp_path / "whole")
    for number in range(RANDOM_KILLS):
        folder = tmp_path / str(number)
        kill(run(tiny_hc18, folder))
        same += check_next_run(tiny_hc18, folder, tmp_path / "whole")
    print(f"{kill.killed} of {RANDOM_KILLS} random kills; {same} of {len(moments) + RANDOM_KILLS} equal bit for bit",
          file=sys.stderr)  # fmt: skip
    assert kill.killed
