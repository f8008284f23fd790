"""The shipped sweep on real phantom runs: killed in the middle, resumed, every trial in W&B's own log."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.sweep.local_study import load, was_interrupted
from experiments.sweep.sweep_file import as_typed
from tests.callbacks.wandb_log import WandbLog

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 3600  # seconds; a busy machine is slow, and no failure waits for it
SMALL = Path(__file__).with_name("phantom_small.yaml")
PROMPTS = Path(__file__).with_name("phantom_small_prompts.json")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like a checkout and keeps its own data and outputs."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def start(checkout):
    """Start the sweep; no runner and none of its trials outlives the test."""
    started = []
    yield lambda: started.append(_start()) or started[-1]
    for runner in started:
        if runner.poll() is None:
            runner.send_signal(signal.SIGINT)
            runner.wait()


def _start():
    command = [sys.executable, "-m", "experiments", "sweep", "run", "decay", "--count", "4", "--"]
    command += [f"--config={SMALL}", f"--biometry.protocol={PROMPTS}", "--score_test_patients=true"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def in_the_second_trial():
    """Say whether the second trial has begun to train."""
    return len(list(Path("outputs/srkd").glob("*/metrics.csv"))) >= 2


def test_a_sweep_of_phantom_runs_survives_a_kill(start):
    runner = start()
    deadline = time.monotonic() + PATIENCE
    while not in_the_second_trial():
        assert runner.poll() is None, runner.stdout.read()
        assert time.monotonic() < deadline, "the second trial never began"
        time.sleep(0.2)
    runner.send_signal(signal.SIGKILL)
    runner.wait()

    runner = start()
    output, _ = runner.communicate(timeout=PATIENCE)
    assert runner.returncode == 0, output
    study = load(Path("outputs/sweeps/decay"))
    trials = [trial for trial in study.trials if not was_interrupted(trial)]
    interrupted = [trial for trial in study.trials if was_interrupted(trial)]
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4, output
    assert len(interrupted) == 1
    assert interrupted[0].params in [trial.params for trial in trials]

    for trial in trials:
        (folder,) = Path("outputs/srkd").glob(trial.user_attrs["run"])
        log = WandbLog.only_one(folder)
        assert log.group == study.study_name
        assert log.series("best/composite")[-1][1] == pytest.approx(trial.value)
        assert log.config["schedule"]["init_args"]["start"] == trial.params["schedule.init_args.start"]
        assert log.config["model"]["loss"]["init_args"]["temperature"] == pytest.approx(
            trial.params["model.loss.init_args.temperature"]
        )
        results = json.loads((folder / "results.json").read_text())
        assert results["selection"]["score"] == pytest.approx(trial.value)
        assert {r.artifact.type for r in log.records if r.HasField("artifact")} >= {"results", "model"}

    report = subprocess.run(
        [sys.executable, "-m", "experiments", "sweep", "report", "decay"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=True,
    )
    best = max(trials, key=lambda trial: trial.value)
    shown = as_typed(shlex.split(best.user_attrs["command"]))
    assert shown in report.stdout.splitlines()
    assert shlex.split(shown)[0] == sys.executable
    assert best.user_attrs["command"].startswith(
        "python -m experiments fit --config=experiments/recipes/srkd.yaml "
    )
