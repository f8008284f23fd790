"""Weight averaging through the real command line: the scores of a run are those of its averaged weights."""

import json
import sys
from pathlib import Path

import pytest
import torch

from experiments import __main__ as command_line

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"


@pytest.fixture
def run(monkeypatch, tmp_path, small_phantom):
    """Return a function that runs a subcommand in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.runs.cli.plots.write_all", lambda *_: None)
    monkeypatch.setattr("experiments.runs.cli.report_finished_run", lambda *_: None)

    def call(subcommand, *words):
        argv = [subcommand, f"--config={ROOT}/experiments/recipes/no-kd.yaml", f"--config={SMALL}"]
        argv += ["--data.batch_size=16", "--biometry.benchmarks=[]", "--trainer.logger=false"]
        argv += ["--model.teacher=null", "--planes.figures=false", *small_phantom, *words]
        monkeypatch.setattr(sys, "argv", ["experiments", *argv])
        command_line.main()

    return call


def test_the_scores_after_training_are_those_of_the_average(run):
    averaging = "--trainer.callbacks+=callbacks.EMAWeightAveraging", "--trainer.callbacks.decay=0.9"
    run("fit", "--run=r", "--trainer.max_epochs=1", *averaging)
    folder = Path("outputs/no-kd/r")
    scores = json.loads((folder / "results.json").read_text())["metrics"]
    best = folder / "checkpoints/best.ckpt"
    saved = torch.load(best, weights_only=True)
    assert not torch.equal(saved["state_dict"]["student.scale"], saved["trained_student"]["scale"])
    run("test", "--run=t", f"--ckpt_path={best}")
    again = json.loads(Path("outputs/no-kd/t/results.json").read_text())["metrics"]
    student = {name: value for name, value in scores.items() if name.startswith("student/")}
    assert student == pytest.approx({name: again[name] for name in student}, nan_ok=True)


def test_a_wrong_decay_is_one_line(run, capsys):
    with pytest.raises(SystemExit):
        run("fit", "--trainer.callbacks+=callbacks.EMAWeightAveraging", "--trainer.callbacks.decay=1.5")
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.endswith("EMAWeightAveraging: decay must be at least 0 and below 1, not 1.5")


def test_a_second_average_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        run("fit", "--run=r", *["--trainer.callbacks+=callbacks.EMAWeightAveraging"] * 2)
    assert "two EMAWeightAveraging; keep one" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_the_callback_of_lightning_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        run("fit", "--run=r", "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging")
    assert "use callbacks.EMAWeightAveraging" in capsys.readouterr().err
    assert not Path("outputs").exists()
