"""SIGTERM in the middle of a real training, and what resuming makes of its W&B run."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from callbacks import run_id_of
from tests.callbacks.wandb_log import WandbLog

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 1800  # seconds; a busy machine is slow, and no failure waits for it
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
PROMPTS = SMALL.with_name("phantom_small_prompts.json")


@pytest.fixture
def fit():
    """Start a fit; none outlives the test."""
    started = []
    yield lambda *words: started.append(_fit(*words)) or started[-1]
    for process in started:
        process.kill()
        process.wait()


def _fit(*words):
    command = [sys.executable, "-m", "experiments", "fit", f"--config={ROOT}/experiments/recipes/srkd.yaml"]
    command += [f"--config={SMALL}", f"--biometry.protocol={PROMPTS}", "--run=r"]
    command += ["--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def first_epoch_is_done():
    path = Path("outputs/srkd/r/metrics.csv")
    return path.is_file() and "best/composite" in path.read_text()


def ends_of_epochs(log):
    """Return the last optimiser step of each epoch that the run finished."""
    last = {row["epoch"]: row["trainer/global_step"] for row in log.history if "train/loss/total" in row}
    return [last[epoch] for epoch in sorted(last)]


def check_scales_and_duplicates(log):
    """What the training step itself logs beside its loss: at the same steps, within its bounds."""
    steps = [step for step, _ in log.series("train/loss/total")]
    for name in ("logit_scale", "teacher_logit_scale", "duplicate_captions"):
        assert [step for step, _ in log.series(f"train/{name}")] == steps, name
    assert all(value > 0 for _, value in log.series("train/logit_scale"))
    assert len({value for _, value in log.series("train/teacher_logit_scale")}) == 1, "the teacher is frozen"
    assert all(0 <= value <= 1 for _, value in log.series("train/duplicate_captions"))


def test_sigterm_exits_non_zero_and_the_same_wandb_run_goes_on(fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = fit()
    deadline = time.monotonic() + PATIENCE
    while not first_epoch_is_done():
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline, "the first epoch never ended"
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 128 + signal.SIGTERM, output
    assert "Traceback" not in output
    checkpoint = tmp_path / "outputs/srkd/r/checkpoints/last.ckpt"
    assert f"--ckpt_path={checkpoint.relative_to(tmp_path)}" in output
    folder = Path("outputs/srkd/r/wandb")
    first = WandbLog.only_one(folder)
    assert "preempting" in first.kinds()
    assert first.exit_code == 128 + signal.SIGTERM
    assert run_id_of(checkpoint) == first.run_id
    check_scales_and_duplicates(first)
    (old,) = folder.glob("offline-run-*")
    old.rename(tmp_path / "first-run")

    resumed = fit(f"--ckpt_path={checkpoint}")
    output, _ = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, output
    assert "other settings" not in output
    assert not list(folder.parent.glob("config-*"))
    second = WandbLog.only_one(folder)
    assert second.run_id == first.run_id
    assert "preempting" not in second.kinds()
    steps = [step for step, _ in second.series("train/loss/total")]
    done = [step for step, _ in first.series("train/loss/total")]
    assert steps[0] == done[-1] + 1, "it goes on at the very next step"
    assert steps == list(range(steps[0], steps[-1] + 1))
    second.check_evaluations(ends_of_epochs(second), folder)
    before, after = first.series("best/composite")[-1][1], second.series("best/composite")[0][1]
    assert after >= before, "the best so far is remembered"
