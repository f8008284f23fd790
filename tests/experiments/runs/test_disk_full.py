"""Training on a full disk, or whose folder is lost: one line, whatever W&B's threads say, no half checkpoint."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacks.safety.checkpoints import save_atomically
from experiments import __main__ as command_line

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, which a checkpoint of the small phantom run does not fit into."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("mount is not installed")
    if made.returncode:
        pytest.skip(f"a small file system needs root: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def train(folder, *options, modules=""):
    """Train a small run in a folder, with Python modules of another one; return what the command did."""
    command = [sys.executable, "-m", "experiments", "fit", f"--config={ROOT}/experiments/recipes/no-kd.yaml"]
    command += [f"--config={SMALL}", "--run=r", "--model.teacher=null", "--biometry.benchmarks=[]"]
    command += ["--data.batch_size=16", "--data.cache=null", *options]
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = own | {"PYTHONPATH": f"{ROOT}:{modules}", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_training_on_a_full_disk_ends_in_one_line(small_disk, small_phantom):
    done = train(small_disk, *small_phantom)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: No space left on device")
    assert "--ckpt_path=" in line
    assert done.returncode == 2
    assert "Traceback" not in done.stdout
    assert not list(small_disk.glob("outputs/*/r/checkpoints/*")), "no part of a checkpoint is left"


LOSE = """
import os, shutil, subprocess
from pathlib import Path
from lightning import Callback

class Lose(Callback):
    def __init__(self, how: str):
        self.how = how
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        folder = Path(trainer.default_root_dir).resolve()
        if batch_idx != 1 or not folder.is_dir():
            return
        if self.how == "read-only":
            # Over itself: the file system under it cannot change while W&B has files open for writing.
            subprocess.run(["mount", "--bind", folder, folder], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        else:
            shutil.rmtree(folder)
        if self.how == "a file":
            folder.touch()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gone", "a file", "read-only"])
def test_a_run_folder_lost_while_training_ends_in_one_line(how, small_phantom, tmp_path, request):
    (tmp_path / "lose.py").write_text(LOSE)
    folder = request.getfixturevalue("small_disk") if how == "read-only" else tmp_path
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    words = "--trainer.callbacks+=lose.Lose", f"--trainer.callbacks.how={how}"
    done = train(folder, *small_phantom, *words, modules=tmp_path)
    print(done.stderr, file=sys.stderr)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "outputs/no-kd/r" in line
    assert done.returncode == 2
    assert "Traceback" not in done.stdout


def test_a_checkpoint_that_cannot_be_written_leaves_the_former_one(tmp_path):
    path = tmp_path / "best.ckpt"
    path.write_text("of the epoch before")

    def save(target, weights_only):
        target.write_text("a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer = SimpleNamespace(save_checkpoint=save, is_global_zero=True)
    with pytest.raises(OSError, match="No space left"):
        save_atomically(trainer, path, weights_only=False)
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]
    assert path.read_text() == "of the epoch before"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_with_file_and_remedy(monkeypatch, capsys, number):
    def full(_):
        raise OSError(number, os.strerror(number), "/tmp/x", None, "outputs/srkd/r/checkpoints/best.ckpt")

    monkeypatch.setattr(command_line, "run", full)
    monkeypatch.setattr(sys, "argv", ["experiments", "train", "srkd", "phantom"])
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {os.strerror(number)} for outputs/srkd/r/checkpoints/best.ckpt; free some space "
        "and repeat the command, or resume from the last checkpoint with "
        "--ckpt_path=outputs/EXP/RUN/checkpoints/last.ckpt\n"
    )
