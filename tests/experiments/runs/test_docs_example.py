"""The example of docs/losses.md in a process of its own: what the run writes, logs, and prints into a log file."""

import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.report.read_run import read_run
from losses.base import scheduled_weight
from metrics.names import GROUPS
from tests.callbacks.wandb_log import WandbLog
from tests.dicom_archive import SECRETS, texts_in
from tests.experiments.runs.documented import documented_top_level, undocumented_keys, violations
from tests.losses.loss_cases import make_batch, make_teacher

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests" / "experiments" / "sweep" / "phantom_small.yaml"
PROMPTS = SMALL.with_name("phantom_small_prompts.json")


def fenced(language: str, which: int = 0) -> str:
    page = (ROOT / "docs" / "losses.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[which]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Train for two epochs with the usual loggers and TensorBoard; return the run's folder and all that was printed."""
    place = tmp_path_factory.mktemp("example")
    example = fenced("python")
    assert len(example.splitlines()) < 20
    (place / "my_losses.py").write_text(example)
    (place / "mine.yaml").write_text(fenced("yaml"))
    sizes = {"num_planes_images": 72, "num_hc18_images": 24, "num_pair_images": 0, "further_tests": 0.0}
    given = [
        f"--config={SMALL}", "--config=mine.yaml", "--experiment=mine", "--run=first", "--trainer.max_epochs=2",
        f"--data.corpus={sizes}", "--data.batch_size=16", f"--planes.protocol={PROMPTS}",
        f"--biometry.protocol={PROMPTS}", "--trainer.logger+=TensorBoardLogger",
        "--trainer.enable_progress_bar=true", "--trainer.accelerator=cpu",
    ]  # fmt: skip
    # Without the W&B service of an earlier test, which writes relative to that test's folder.
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "fit", *given],
        cwd=place,
        env=own | SECRETS | {"PYTHONPATH": f"{ROOT}:{place}", "WANDB_MODE": "offline"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return place / "outputs" / "mine" / "first", done.stdout


@pytest.fixture
def folder(whole_run):
    return whole_run[0]


@pytest.fixture
def printed(whole_run):
    return whole_run[1]


def test_a_loss_of_ones_own_trains_evaluates_and_writes_a_whole_run(folder):
    record = json.loads((folder / "results.json").read_text())
    for model in ("student", "teacher", "random"):
        for name in ("planes/f1", "subplanes/f1", "hc18/validity"):
            assert 0 <= record["metrics"][f"{model}/{name}"] <= 100
    assert "train/loss/hinge" in (folder / "metrics.csv").read_text()
    assert "my_losses.MyLoss" in (folder / "config.yaml").read_text()
    assert (folder / "plots" / "training.png").is_file()
    saved = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert not [name for name in saved["state_dict"] if name.startswith("teacher")]


def test_the_example_of_a_distillation_loss_is_the_cross_entropy_that_it_says():
    names = {}
    exec(fenced("python", 1), names)
    loss, student, teacher = names["RowKD"](weight=0.5), make_batch(B=6), make_teacher(B=6)
    p = torch.softmax(teacher.logit_scale / 5 * teacher.image @ teacher.text.T, dim=1)
    q = torch.softmax(student.logit_scale * student.image @ student.text.T, dim=1)
    rows = -sum(float(p[i, j] * q[i, j].log()) for i in range(6) for j in range(6)) / 6
    found = loss(student, teacher)
    assert float(found["rows"]) == pytest.approx(rows)
    assert float(found["total"]) == pytest.approx(0.5 * rows)
    assert scheduled_weight(loss) == (loss, "weight")


def test_every_number_and_every_key_of_results_json_is_defined(folder):
    record = json.loads((folder / "results.json").read_text())
    assert len(record["metrics"]) > 60
    assert undocumented_keys(record["metrics"]) == []
    table = (folder / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert undocumented_keys(set(table) - {"epoch", "step"}) == []
    assert violations(record) == []
    assert set(record) == documented_top_level()
    assert undocumented_keys(["student/planes/top7", "best/hc18/total"]) == [
        "student/planes/top7",
        "best/hc18/total",
    ]
    assert len(violations(record | {"seed": "0", "surprise": 1})) == 2


def test_no_secret_of_the_environment_is_written_or_printed(folder, printed):
    sources = [("printed", printed), *texts_in(folder)]
    assert {Path(where).suffix for where, _ in sources} >= {
        ".yaml",
        ".json",
        ".csv",
        ".html",
        ".ckpt",
        ".wandb",
    }
    assert any("TimmEncoder" in text for where, text in sources if where.endswith("best.ckpt"))
    for where, text in sources:
        assert not [name for name, secret in SECRETS.items() if secret in text], where


def logged(folder):
    """Return every name that a run has logged, to its table and to W&B."""
    table = (folder / "metrics.csv").read_text().partition("\n")[0].split(",")
    sent = {key for row in WandbLog.only_one(folder).history for key in row if not key.startswith("_")}
    return {*table, *sent} - {"epoch", "step", "trainer/global_step"}


def test_whatever_a_run_logs_is_documented(folder):
    section = (ROOT / "docs/tracking.md").read_text().partition("## What is logged")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    documented = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    names = logged(folder)
    assert len(names) > 100
    # A table or an image is logged as several values below its name.
    lacking = [n for n in names if not any(fnmatch(n, d) or n.startswith(f"{d}/") for d in documented)]
    assert not lacking
    assert {name.partition("/")[0] for name in names} <= set(GROUPS)
    assert {name.partition("/")[0] for name in documented} == set(GROUPS)
    assert "train/learning_rate/pg1" in names


def test_the_start_of_a_run_is_told_in_ten_lines(printed):
    lines = printed.splitlines()
    epochs = [number for number, line in enumerate(lines) if line.startswith("epoch ")]
    start, first = lines[: epochs[0]], lines[epochs[0]]
    assert len(start) <= 10
    assert start[0].startswith("W&B: WANDB_MODE=offline, so logging offline; later: ")
    assert start[1] == "training mine on phantom (seed 0, 1 x cpu, 32-true)"
    told = dict(line.split(maxsplit=1) for line in start[2:])
    assert list(told) == ["corpus", "teacher", "student", "loss", "steps", "logging", "folder"]
    batches = int(told["corpus"].split()[0])
    assert told["steps"] == f"{2 * batches} in 2 epochs, evaluated every epoch"
    assert told["student"] == "TimmEncoder repvit_m0_9, 0.2 M parameters"
    assert told["loss"] == "MyLoss"
    assert told["logging"] == "metrics.csv, W&B offline, TensorBoard"
    assert told["folder"] == "outputs/mine/first"
    assert first.startswith(f"epoch 1/2, step {batches}/{2 * batches}: loss ")
    assert len(epochs) == 2


def test_a_log_holds_no_control_characters_and_nothing_of_other_libraries(printed):
    assert not set(printed) & set("\x1b\r\b")
    for words in ("Tip", "litlogger", "wandb:", "FLOPs", "GPU available", "Seed set", "Warning", "warning"):
        assert words not in printed


def test_every_logger_of_a_real_run_holds_its_loss_and_the_report_finds_the_run(folder):
    assert yaml.safe_load((folder / "config.yaml").read_text())["experiment"] == "mine"
    found = read_run(folder)
    logged = found.history.dropna(subset=["train/loss/total"]).set_index("step")["train/loss/total"]
    events = EventAccumulator(str(folder)).Reload().Scalars("train/loss/total")
    assert {event.step: event.value for event in events} == pytest.approx(dict(logged), rel=1e-5)
    assert len(events) > 1
    assert found.config["trainer"]["max_epochs"] == 2
    assert (folder / "report.html").is_file()
