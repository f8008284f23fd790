"""Checkpoint callbacks that a user adds, through the real command line: this project's own still decides."""

import json
import sys
from pathlib import Path

import pytest
import torch

from experiments import __main__ as command_line

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
LIGHTNING = "lightning.pytorch.callbacks"
ADDED = [
    f"--trainer.callbacks+={LIGHTNING}.ModelCheckpoint",
    f"--trainer.callbacks+={LIGHTNING}.ModelCheckpoint",
    "--trainer.callbacks.monitor=val/composite",  # as the project's own
    "--trainer.callbacks.mode=max",
    "--trainer.callbacks.filename=mine",
    f"--trainer.callbacks+={LIGHTNING}.OnExceptionCheckpoint",
    "--trainer.callbacks.dirpath=failed",
]


def fit(monkeypatch, *words):
    argv = ["fit", f"--config={ROOT}/experiments/recipes/no-kd.yaml", f"--config={SMALL}", "--run=r", *ADDED]
    argv += ["--data.batch_size=16", "--biometry.benchmarks=[]", "--trainer.logger=false"]
    argv += ["--model.teacher=null", "--planes.figures=false", *words]
    monkeypatch.setattr(sys, "argv", ["experiments", *argv])
    monkeypatch.setattr("experiments.runs.cli.plots.write_all", lambda *_: None)
    monkeypatch.setattr("experiments.runs.cli.report_finished_run", lambda *_: None)
    command_line.main()
    return json.loads(Path("outputs/no-kd/r/results.json").read_text())


@pytest.fixture(scope="module")
def records(tmp_path_factory, small_phantom):
    """Results of a run of one epoch, and of the same run resumed for a second one; inside its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("added"))
        first = fit(patch, *small_phantom, "--trainer.max_epochs=1")
        yield first, fit(patch, *small_phantom, "--trainer.max_epochs=2", "--ckpt_path=last")


@pytest.mark.parametrize("number", [0, 1])
def test_the_selected_checkpoint_is_scored_whatever_callbacks_are_added(records, number):
    selection = records[number]["selection"]
    assert Path(selection["checkpoint"]).name == "best.ckpt"
    assert selection["monitor"] == "val/composite"
    assert selection["score"] is not None


def test_added_callbacks_do_their_own_work_and_are_resumed(records):
    folder = Path("outputs/no-kd/r/checkpoints")
    first, second = (record["steps"] for record in records)
    assert second == 2 * first
    assert {path.name for path in folder.iterdir()} >= {"best.ckpt", "last.ckpt", "mine.ckpt"}
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    assert saved["global_step"] == second
    own = [key for key in saved["callbacks"] if "Checkpoint" in key]
    assert len(own) == 3, "two of the user's, one of the project's"


def test_an_empty_list_of_benchmarks_is_obeyed_and_the_rest_selects(records):
    scored = records[0]["details"]["student"]
    assert set(scored) == {"planes", "subplanes"}
