"""Kill -9 of one or both processes of a run, then the documented resume: the weights of the unbroken run."""

import os
import random
import signal
import sys
import time

import pytest
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from experiments import __main__ as front_door
from tests.kills import Child, DieAt, half_written, wrap
from tests.lightning_modules.test_kills import EPOCHS, assert_same_run
from tests.lightning_modules.test_resumption import fit, saved

pytestmark = [pytest.mark.slow, pytest.mark.faults]
PATIENCE = 60  # seconds that the others have to end
RANDOM_KILLS = 6


def checkpoint(rank):
    """Die in a checkpoint: rank 0 with half of it written, rank 1, which waits for it, before."""
    if rank == 0:
        half_written(4)
    else:
        wrap(Trainer, "save_checkpoint", 4, after=False)


HOOKS = {
    "batch": ("on_train_batch_start", 4),
    "optimiser": ("on_before_optimizer_step", 3),
    "evaluation": ("on_validation_batch_start", 2),
    "end-of-evaluation": ("on_validation_epoch_end", 2),
    "checkpoint": None,
}


class Joined(Callback):
    """Leave a file once both processes have met; before that, only a launcher could end the one that waits."""

    def __init__(self, folder, rank):
        self.file = folder.with_name(f"{folder.name}.{rank}")

    def on_fit_start(self, trainer, pl_module):
        self.file.touch()


def met(folder, children):
    """Wait until both processes have met; return the time."""
    while len(list(folder.parent.glob(f"{folder.name}.[01]"))) < 2:
        assert all(child.process.is_alive() for child in children)
        time.sleep(0.01)
    return time.monotonic()


@pytest.fixture(scope="module")
def start():
    """Start both processes of a run, as a launcher does, behind the front door's handler of errors."""

    def run(folder, dying=(), moment=None, resume=None):
        port = find_free_network_port()

        def task(rank):
            os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            extra = [Joined(folder, rank)]
            if rank in dying:
                extra += [DieAt(*HOOKS[moment])] if HOOKS[moment] else checkpoint(rank) or []
            settings = {"epochs": EPOCHS, "checkpoint": resume, "devices": 2, "strategy": "ddp"}
            front_door.run = lambda _: fit(folder, *extra, **settings) and 0
            sys.argv = ["experiments", "fit"]
            front_door.main()

        return [Child(lambda rank=rank: task(rank)) for rank in range(2)]

    return run


def ended(children):
    """Wait for both, after the first of which the other has a minute; return exit statuses and outputs."""
    while all(child.process.is_alive() for child in children):
        time.sleep(0.02)
    for child in children:
        child.process.join(PATIENCE)
    late = [child.process.is_alive() for child in children]
    for child in children:
        child.process.kill()
    assert not any(late), "the other process ends, too"
    return [child.end() for child in children]


def finished(children):
    for status, output in ended(children):
        assert status == 0, output


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "whole"
    children = start(folder)
    began = met(folder, children)
    finished(children)
    return saved(folder / "checkpoints/last.ckpt"), time.monotonic() - began


def resumed(start, folder):
    last = folder / "checkpoints/last.ckpt"
    for left in folder.glob("checkpoints/*.ckpt"):
        assert saved(left), "it is complete"
    finished(start(folder, resume=last if last.is_file() else None))
    return saved(last)


def test_killed_at_named_moments(start, whole, tmp_path):
    for moment in HOOKS:
        for dying in ((0,), (1,), (0, 1)):
            folder = tmp_path / f"{moment}-{dying}"
            ends = ended(start(folder, dying, moment))
            for rank, (status, output) in enumerate(ends):
                errors = [line for line in output.splitlines() if line.startswith("error: ")]
                assert status == (-signal.SIGKILL if rank in dying else 2), f"{folder.name}: {output}"
                assert len(errors) == (rank not in dying), f"{folder.name}: {output}"
                assert "Traceback" not in output, f"{folder.name}: {output}"
            assert_same_run(resumed(start, folder), whole[0])


def test_killed_at_random_moments(start, whole, tmp_path):
    dice, killed = random.Random(0), 0
    for number in range(RANDOM_KILLS):
        children = start(tmp_path / str(number))
        met(tmp_path / str(number), children)
        time.sleep(whole[1] * dice.uniform(0, 0.9))
        for child in dice.choice((children, children[:1], children[1:])):
            killed += child.process.is_alive()
            child.process.kill()
        ended(children)
        assert_same_run(resumed(start, tmp_path / str(number)), whole[0])
    print(f"{killed} processes were killed before their end", file=sys.stderr)
    assert killed, "how many depends on the machine"
