"""What a run prints: a real command line in a process of its own, its output in a file as a log would have it."""

import logging
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.tracking.console import LogProgress, TerminalProgress, progress_for
from datamodules.phantom import PhantomSettings
from experiments.report.read_run import read_run
from experiments.runs.loggers import _is_wanted

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
PROMPTS = SMALL.with_name("phantom_small_prompts.json")
SIZES = PhantomSettings(num_planes_images=96, num_hc18_images=24, num_pair_images=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train for two epochs with the usual loggers and TensorBoard; return the folder and all that was printed."""
    folder = tmp_path_factory.mktemp("console")
    given = [
        f"--config={SMALL}",
        f"--data.corpus={asdict(SIZES)}",
        "--data.batch_size=16",
        f"--planes.protocol={PROMPTS}",
        f"--biometry.protocol={PROMPTS}",
        "--trainer.logger+=TensorBoardLogger",
        "--trainer.max_epochs=2",
        "--trainer.enable_progress_bar=true",
        "--trainer.accelerator=cpu",
        "--run=one",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "train", "srkd", "phantom", *given],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return folder / "outputs" / "srkd" / "one", done.stdout


def test_the_start_of_a_run_is_told_in_ten_lines(run):
    _, printed = run
    lines = printed.splitlines()
    epochs = [number for number, line in enumerate(lines) if line.startswith("epoch ")]
    start, first = lines[: epochs[0]], lines[epochs[0]]
    assert len(start) <= 10
    assert start[0].startswith("W&B: WANDB_MODE=offline, so logging offline; later: ")
    assert start[1] == "training srkd on phantom (seed 0, 1 x cpu, 32-true)"
    told = dict(line.split(maxsplit=1) for line in start[2:])
    assert list(told) == ["corpus", "teacher", "student", "loss", "steps", "logging", "folder"]
    batches = int(told["corpus"].split()[0])
    assert told["steps"] == f"{2 * batches} in 2 epochs, evaluated every epoch"
    assert told["student"] == "TimmEncoder repvit_m0_9, 0.2 M parameters"
    assert told["logging"] == "metrics.csv, W&B offline, TensorBoard"
    assert told["folder"] == "outputs/srkd/one"
    assert first.startswith(f"epoch 1/2, step {batches}/{2 * batches}: loss ")
    assert len(epochs) == 2


def test_a_log_holds_no_control_characters_and_nothing_of_other_libraries(run):
    _, printed = run
    assert not set(printed) & set("\x1b\r\b")
    for words in ("Tip", "litlogger", "wandb:", "FLOPs", "GPU available", "Seed set", "Warning", "warning"):
        assert words not in printed


def test_every_logger_of_a_real_run_holds_its_loss_and_the_report_finds_the_run(run):
    folder, _ = run
    assert yaml.safe_load((folder / "config.yaml").read_text())["experiment"] == "srkd"
    found = read_run(folder)
    logged = found.history.dropna(subset=["train/loss/total"]).set_index("step")["train/loss/total"]
    events = EventAccumulator(str(folder)).Reload().Scalars("train/loss/total")
    assert {event.step: event.value for event in events} == pytest.approx(dict(logged), rel=1e-5)
    assert len(events) > 1
    assert found.config["trainer"]["max_epochs"] == 2
    assert (folder / "report.html").is_file()


def test_a_bar_in_a_terminal_and_lines_elsewhere(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert [type(callback) for callback in progress_for([], None)] == [LogProgress]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert [type(callback) for callback in progress_for([], None)] == [TerminalProgress]
    assert progress_for([], False) == []
    assert progress_for([TQDMProgressBar()], None) == []


def test_a_bar_shows_no_more_metrics_than_fit_its_line(monkeypatch):
    all_metrics = {"v_num": "abc", "loss": 2.0, "train/off_diagonal_weight": -0.4, "val/composite": 0.3}
    monkeypatch.setattr(ProgressBar, "get_metrics", lambda *_: dict(all_metrics))
    assert TerminalProgress().get_metrics(None, None) == {"loss": 2.0, "val/composite": 0.3}


@pytest.mark.parametrize(
    ("path", "level", "wanted"),
    [
        ("/x/lightning/pytorch/trainer/setup.py", logging.INFO, False),
        ("/x/lightning/pytorch/trainer/setup.py", logging.WARNING, True),
        ("/x/lightning/pytorch/callbacks/early_stopping.py", logging.INFO, True),
        ("/x/models/encoders/open_clip_encoder.py", logging.INFO, True),
    ],
)
def test_of_lightning_the_warnings_and_the_callbacks_words_stay(path, level, wanted):
    assert _is_wanted(logging.LogRecord("x", level, path, 1, "", None, None)) is wanted
