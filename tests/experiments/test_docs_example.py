"""The example of docs/losses.md, run exactly as it stands there, through the real command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "experiments" / "sweep" / "phantom_small.yaml"


def fenced(language: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "losses.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def test_a_loss_of_ones_own_trains_evaluates_and_writes_a_whole_run(tmp_path):
    example = fenced("python")
    assert len(example.splitlines()) < 20
    (tmp_path / "my_losses.py").write_text(example)
    (tmp_path / "mine.yaml").write_text(fenced("yaml"))
    command = [sys.executable, "-m", "experiments", "fit", f"--config={SMALL}", "--config=mine.yaml"]
    command += ["--experiment=mine", "--run=first"]
    # Without the W&B service of an earlier test, which writes relative to that test's folder.
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = own | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "WANDB_MODE": "offline"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "outputs" / "mine" / "first"
    record = json.loads((folder / "results.json").read_text())
    for model in ("student", "teacher", "random"):
        for name in ("planes/f1", "subplanes/f1", "hc18/validity"):
            assert 0 <= record["metrics"][f"{model}/{name}"] <= 100
    assert "train/loss/hinge" in (folder / "metrics.csv").read_text()
    assert "my_losses.MyLoss" in (folder / "config.yaml").read_text()
    assert (folder / "plots" / "training.png").is_file()
    saved = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert not [name for name in saved["state_dict"] if name.startswith("teacher")]
