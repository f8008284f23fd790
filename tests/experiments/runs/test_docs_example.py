"""The example of docs/losses.md, run exactly as it stands there, through the real command line; and what it logs."""

import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from metrics.names import GROUPS
from tests.callbacks.wandb_log import WandbLog
from tests.experiments.runs.documented import documented_top_level, undocumented_keys, violations

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests" / "experiments" / "sweep" / "phantom_small.yaml"


def fenced(language: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "losses.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the run."""
    place = tmp_path_factory.mktemp("example")
    example = fenced("python")
    assert len(example.splitlines()) < 20
    (place / "my_losses.py").write_text(example)
    (place / "mine.yaml").write_text(fenced("yaml"))
    command = [sys.executable, "-m", "experiments", "fit", f"--config={SMALL}", "--config=mine.yaml"]
    command += ["--experiment=mine", "--run=first"]
    # Without the W&B service of an earlier test, which writes relative to that test's folder.
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = own | {"PYTHONPATH": f"{ROOT}:{place}", "WANDB_MODE": "offline"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return place / "outputs" / "mine" / "first"


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
