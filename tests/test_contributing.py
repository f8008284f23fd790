"""The recipes of CONTRIBUTING.md do what they promise: each block is run as it stands there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from datamodules.corpora.corpus import Corpus
from datamodules.record import Record
from losses import Embeddings
from tests.conftest import write_image

ROOT = Path(__file__).resolve().parent.parent
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
PROMPTS = ROOT / "tests/experiments/sweep/phantom_small_prompts.json"
ROOMS = (
    "losses",
    "metrics",
    "figures",
    "models",
    "datamodules",
    "lightning_modules",
    "callbacks",
    "export",
    "experiments",
)
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def recipe(title):
    """Return the Python block under a heading."""
    (block,) = re.findall(rf"## Add an? {title}\n.*?```python\n(.*?)```", PAGE, re.DOTALL)[:1]
    assert len(block.splitlines()) <= 10
    return block


@pytest.mark.parametrize("title", re.findall(r"## Add an? ([\w ]+)", PAGE))
def test_every_recipe_is_short(title):
    assert recipe(title)


def test_a_loss():
    names = {}
    exec(recipe("loss"), names)
    unit = torch.eye(4)
    total = names["ClampedLoss"]()(Embeddings(unit, unit, torch.tensor(10.0)), None)["total"]
    assert float(total) == pytest.approx((4 * 1 + 12 * 0.5) / 16)


def test_a_corpus(tmp_path):
    corpus = eval(recipe("corpus"), {"Corpus": Corpus, "Record": Record})
    frame = pd.DataFrame({"file": ["a.png", "b.png"], "patient": ["p", "q"], "plane": ["brain", "femur"]})
    frame.to_csv(tmp_path / "clinic.csv", index=False)
    for number, name in enumerate(frame["file"]):
        write_image(tmp_path / "images" / name, number)
    records = corpus.assign_splits(corpus.read(tmp_path))
    assert [(record.patient, record.plane) for record in records] == [("p", "brain"), ("q", "femur")]
    assert all(record.split for record in records)


def test_a_benchmark_is_scored_and_reported(tmp_path):
    """One record and its prompts put it into selection, results.json and the report."""
    for room in set(ROOMS) - {"metrics"}:
        (tmp_path / room).symlink_to(ROOT / room)
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    source = tmp_path / "metrics" / "benchmarks.py"
    before, end, after = source.read_text().partition("    )\n}  # fmt: skip\n")
    assert end
    source.write_text(f"{before}{recipe('benchmark').rstrip()},\n{end}{after}")
    prompts = json.loads(PROMPTS.read_text())
    prompts["views"] = {name: prompts["planes"][name] for name in ("brain", "abdomen", "heart", "femur")}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    argv = ["fit", "--config=experiments/recipes/no-kd.yaml", f"--config={SMALL}", "--run=r"]
    argv += ["--model.teacher=null", "--biometry.benchmarks=[]", "--planes.protocol=prompts.json"]
    argv += [
        "--trainer.logger=false",
        "--data.cache=null",
        "--planes.most_prompts=1",
        "--planes.figures=false",
    ]
    argv += [
        "--data.batch_size=16",
        "--data.corpus.num_planes_images=120",
        "--data.corpus.num_hc18_images=12",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *argv],
        cwd=tmp_path,
        env=os.environ | {"WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "outputs/no-kd/r/results.json").read_text())
    assert 0 <= record["metrics"]["student/views/f1"] <= 1
    assert len(record["details"]["student"]["views"]["per_class"]) == 4
    assert "four-view F1" in (tmp_path / "outputs/no-kd/r/report.html").read_text()
