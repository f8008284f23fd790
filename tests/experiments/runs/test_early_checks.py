"""A run that cannot work ends with one line before its folder or its W&B run exists."""

import json
import sys
from pathlib import Path

import pytest
from jsonargparse import Namespace

from datamodules.evaluation.protocol import DEFAULT_PROTOCOL
from experiments import __main__ as command_line
from experiments.config import resolve
from experiments.runs import cli
from experiments.runs.early_checks import check_devices, check_run

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
PLANES = [f"--config={SMALL}", "--data=datamodules.FetalPlanesDataModule", "--data.batch_size=8"]
HEADS = [
    f"--config={SMALL}",
    "--data=datamodules.HC18DataModule",
    "--data.batch_size=8",
    "--data.test_share=0",
]


@pytest.fixture
def refused(tmp_path, tiny_planes, monkeypatch, capsys):
    """Start a run on real files; return its error line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(cli, "settled_loggers", lambda *_, **__: pytest.fail("it went on to its loggers"))

    def refused(*words):
        argv = ["fit", f"--config={ROOT}/experiments/recipes/srkd.yaml", "--run=r", *PLANES]
        argv += [f"--data.root={tiny_planes}", *words]
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
        (["--trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0 trains nothing"),
        (["--planes.protocol=nowhere.json"], "nowhere.json"),
    ],
)
def test_a_run_that_cannot_work_leaves_nothing(refused, words, said):
    assert said in refused(*words)


def test_prompts_that_lack_a_class_leave_nothing(refused):
    protocol = json.loads(DEFAULT_PROTOCOL.read_text())
    del protocol["planes"]["femur"]
    Path("mine.json").write_text(json.dumps(protocol))
    assert "planes: no prompts for ['femur']" in refused("--planes.protocol=mine.json")


def refusal(options, root, settings, command="fit"):
    """Return how the checks of a run refuse these settings."""
    config = resolve("srkd", "phantom", options)
    config["data.init_args.root"] = str(root)
    for name, value in settings.items():
        config[name] = value
    with pytest.raises((ValueError, OSError)) as refused:
        check_run(config, command)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model.loss": None}, "CLIPLoss names no weight"),
        (
            {"data.init_args.batch_size": 1, "trainer.devices": 1},
            "data.batch_size=1: the loss compares the pairs of a batch",
        ),
        ({"model.betas": [0.9, 1.5]}, "model.betas must be at least 0 and below 1, not [0.9, 1.5]"),
        ({"schedule.init_args.start": float("nan")}, "schedule.start: must be a finite number, not nan"),
        ({"data.init_args.root": "nowhere"}, "nowhere"),
        ({"data.init_args.val_share": 0.0}, "no image of benchmark 'planes' in split 'val'"),
    ],
)
def test_settings_that_cannot_work_are_named(tiny_planes, settings, said):
    assert said in refusal(PLANES, tiny_planes, settings)


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("fit", {}),
        ("fit", {"data.init_args.val_share": 0.0, "trainer.limit_val_batches": 0}),
        ("fit", {"data.init_args.batch_size": 1, "trainer.devices": 2, "trainer.accelerator": "cpu"}),
        ("test", {"data.init_args.batch_size": 500}),
    ],
    ids=["whole", "no validation", "a pair on each process", "an evaluation fills no batch"],
)
def test_the_first_and_the_last_image_of_every_split_are_decoded(tiny_planes, command, settings):
    """Reached only where nothing else is refused."""
    for number in (36, 19, 1):  # patients of the test split, from a table of both shots each
        (path,) = tiny_planes.glob(f"Images/Patient{number:05d}_*_1_of_2.png")
        path.write_bytes(b"no image")
    assert "cannot be read as an image" in refusal(PLANES, tiny_planes, settings, command)


def test_test_patients_may_be_missing_where_nobody_scores_them(tiny_hc18):
    (tiny_hc18 / "training_set" / "000_HC.png").write_bytes(b"no image")
    assert "in split 'test'" in refusal(HEADS, tiny_hc18, {})
    said = refusal(HEADS, tiny_hc18, {"score_test_patients": False})
    assert "cannot be read as an image" in said


def test_processes_are_those_of_all_nodes():
    assert check_devices(Namespace(accelerator="cpu", devices=2, num_nodes=3)) == 6
    assert check_devices(Namespace(accelerator=Namespace(class_path="mine"), devices=1, num_nodes=1)) is None


def test_a_training_on_all_devices_of_a_machine_says_so(tiny_planes, monkeypatch, capsys):
    monkeypatch.setattr("experiments.runs.early_checks.check_devices", lambda _: 8)
    for devices, says in (("auto", True), (8, False)):
        refusal(PLANES, tiny_planes, {"trainer.devices": devices, "data.init_args.batch_size": 500})
        assert ("8 x 500 pairs; --trainer.devices=1 takes one" in capsys.readouterr().out) == says
