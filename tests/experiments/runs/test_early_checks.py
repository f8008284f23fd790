"""A run that cannot work ends with one line before its folder or its W&B run exists."""

import json
import sys
from pathlib import Path

import pytest
from jsonargparse import Namespace

from datamodules.evaluation.protocol import DEFAULT_PROTOCOL
from experiments import __main__ as command_line
from experiments.runs import cli
from experiments.runs.early_checks import check_devices

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
OWN_TEACHER = (
    '--model.teacher={"class_path": "models.from_checkpoint", "init_args": {"path": "teacher:phantom"}}'
)


@pytest.fixture
def refused(tmp_path, tiny_planes, monkeypatch, capsys):
    """Start a run on real files; return its error line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(cli, "settled_loggers", lambda *_, **__: pytest.fail("it went on to its loggers"))

    def refused(*words, command="fit"):
        argv = [command, f"--config={ROOT}/experiments/recipes/srkd.yaml", f"--config={SMALL}", "--run=r"]
        argv += ["--data=datamodules.FetalPlanesDataModule", f"--data.root={tiny_planes}"]
        argv += ["--data.batch_size=8", *words]
        monkeypatch.setattr(sys, "argv", ["experiments", *argv])
        with pytest.raises(SystemExit) as stop:
            command_line.main()
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert not Path("outputs").exists()
        return line

    return refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.batch_size=500"], "cannot fill one batch; lower batch_size (500)"),
        (["--model.loss=null", OWN_TEACHER], "CLIPLoss names no weight"),
        (["--data.batch_size=1", "--trainer.devices=1"], "data.batch_size=1: the loss compares the pairs of a batch"),
        (["--model.betas=[0.9,1.5]"], "model.betas must be at least 0 and below 1, not [0.9, 1.5]"),
        (["--schedule.init_args.start=.nan"], "schedule.start: must be a finite number, not nan"),
        (["--trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0 trains nothing"),
        (["--data.root=nowhere"], "nowhere"),
        (["--planes.protocol=nowhere.json"], "nowhere.json"),
        (["--data.val_share=0"], "no image of benchmark 'planes' in split 'val'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_leave_nothing(refused, words, said):
    assert said in refused(*words)


def test_a_wandb_that_cannot_be_reached_leaves_nothing(refused, monkeypatch):
    def unreachable():
        raise ValueError("no such server")

    monkeypatch.setattr("experiments.runs.loggers.wandb_mode", lambda: "online")
    monkeypatch.setattr("experiments.runs.loggers.check_server", unreachable)
    assert "no such server" in refused("--trainer.logger=lightning.pytorch.loggers.WandbLogger")


def test_prompts_that_lack_a_class_leave_nothing(refused):
    protocol = json.loads(DEFAULT_PROTOCOL.read_text())
    del protocol["planes"]["femur"]
    Path("mine.json").write_text(json.dumps(protocol))
    assert "planes: no prompts for ['femur']" in refused("--planes.protocol=mine.json")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("fit", []),
        ("fit", ["--data.val_share=0", "--trainer.limit_val_batches=0"]),
        (
            "fit",
            ["--data.batch_size=1", "--trainer.devices=2", "--trainer.accelerator=cpu"],
        ),  # a pair on each
        ("test", ["--data.batch_size=500"]),
    ],
)
def test_the_first_and_the_last_image_of_every_split_are_decoded(refused, tiny_planes, command, words):
    """Reached only where nothing else is refused: an evaluation fills no batches, and some runs no validation."""
    for number in (36, 19, 1):  # patients of the test split, from a table of both shots each
        (path,) = tiny_planes.glob(f"Images/Patient{number:05d}_*_1_of_2.png")
        path.write_bytes(b"no image")
    assert "cannot be read as an image" in refused(*words, command=command)


def test_test_patients_may_be_missing_where_nobody_scores_them(refused, tiny_hc18):
    (tiny_hc18 / "training_set" / "000_HC.png").write_bytes(b"no image")
    words = ["--data=datamodules.HC18DataModule", f"--data.root={tiny_hc18}", "--data.test_share=0"]
    assert "in split 'test'" in refused(*words)
    assert "cannot be read as an image" in refused(*words, "--score_test_patients=false")


def test_processes_are_those_of_all_nodes():
    assert check_devices(Namespace(accelerator="cpu", devices=2, num_nodes=3)) == 6
    assert check_devices(Namespace(accelerator=Namespace(class_path="mine"), devices=1, num_nodes=1)) is None
