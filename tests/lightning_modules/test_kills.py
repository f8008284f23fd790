"""Kill -9 at named and random moments of a run, then the documented resume: the weights of the unbroken run."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from tests.kills import DieAt, RandomKills, die, half_written, in_child, seconds_of, wrap
from tests.lightning_modules.test_resumption import assert_same, fit, saved

pytestmark = pytest.mark.faults
EPOCHS = 3
RANDOM_KILLS = 20

HOOKS = (
    "on_before_backward",
    "on_before_optimizer_step",
    "on_validation_batch_start",
    "on_validation_epoch_end",
)
CALLS = [(Path, "replace"), (Path, "hardlink_to"), (Path, "unlink"), (shutil, "move"), (torch, "save")]
MOMENTS = [
    *((f"{hook}-{number}", hook, number) for hook in HOOKS for number in (1, 3)),
    *((f"{'after' if after else 'before'}-{name}-{number}", (owner, name, after), number)
      for owner, name in CALLS for after, number in ((False, 2), (True, 3))),
    *((f"half-written-{number}", None, number) for number in (1, 5)),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    seconds = seconds_of(lambda: fit(folder, epochs=EPOCHS))
    return saved(folder / "checkpoints/last.ckpt"), seconds


def resumed(folder):
    """Resume a killed run from what it left: nothing, or a checkpoint that can be read."""
    last = folder / "checkpoints" / "last.ckpt"
    start = last if last.is_file() else None
    for left in folder.glob("checkpoints/*.ckpt"):
        assert saved(left), "it is complete"
    assert not in_child(lambda: fit(folder, epochs=EPOCHS, checkpoint=start))
    assert not list(folder.glob("checkpoints/.*"))
    return saved(last)


def assert_same_run(one, other):
    assert one["global_step"] == other["global_step"]
    assert_same(one["state_dict"], other["state_dict"])
    moments = [run["optimizer_states"][0]["state"] for run in (one, other)]
    for key, values in moments[0].items():
        assert_same(values, moments[1][key])


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "number"), [m[1:] for m in MOMENTS], ids=[m[0] for m in MOMENTS])
def test_a_run_killed_at_a_named_moment(whole, tmp_path, moment, number):
    def task():
        if moment is None:
            half_written(number)
        elif isinstance(moment, tuple):
            owner, name, after = moment
            wrap(owner, name, number, after)
        fit(tmp_path / "cut", *([DieAt(moment, number)] if isinstance(moment, str) else []), epochs=EPOCHS)

    assert in_child(task), "the moment comes"
    assert_same_run(resumed(tmp_path / "cut"), whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, 7))
def test_checkpoints_are_whole_when_temporary_files_are_on_another_file_system(whole, tmp_path, number):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system")
    left = [number]
    copy = shutil.copyfile

    def half_copied(source, target, **settings):
        left[0] -= 1
        if left[0]:
            return copy(source, target, **settings)
        Path(target).write_bytes(Path(source).read_bytes()[:1000])
        return die()

    def task():
        tempfile.tempdir, shutil.copyfile = folder, half_copied
        fit(tmp_path / "cut", epochs=EPOCHS)

    with tempfile.TemporaryDirectory(dir=other) as folder:
        assert in_child(task), "the moment comes"
    assert_same_run(resumed(tmp_path / "cut"), whole[0])


@pytest.mark.slow
def test_a_run_killed_at_random_moments(whole, tmp_path):
    kill = RandomKills(whole[1])
    for number in range(RANDOM_KILLS):
        folder = tmp_path / f"cut{number}"
        kill(lambda: fit(folder, epochs=EPOCHS))  # noqa: B023
        assert_same_run(resumed(folder), whole[0])
    print(f"{kill.killed} of {RANDOM_KILLS} runs were killed before their end", file=sys.stderr)
    assert kill.killed, "how many depends on the machine"


@pytest.mark.slow
def test_a_run_killed_between_two_steps_goes_on(whole, tmp_path):
    assert in_child(lambda: fit(tmp_path / "cut", DieAt("on_before_backward", 8), epochs=EPOCHS))
    assert_same_run(resumed(tmp_path / "cut"), whole[0])
