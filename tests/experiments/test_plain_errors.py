"""A user's mistakes on the training command line: one line that names the key and the remedy, and no training."""

import json
import sys
from dataclasses import asdict

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator

from datamodules.phantom.corpus import PhantomSettings
from experiments import __main__ as command_line
from experiments.plain_errors import SYNONYMS, PlainErrorParser, UsageError
from experiments.recipe_files import training_arguments
from experiments.runs.cli import SonoDistillCLI
from experiments.runs.early_checks import check_devices
from tests.models.checkpoints.test_weights import Malicious


@pytest.fixture
def train(monkeypatch, tmp_path, capsys):
    """Run `train ...` in an empty folder; return what it says on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["experiments", "train", *arguments])
        with pytest.raises(SystemExit) as stop:
            command_line.main()
        assert stop.value.code == 2
        assert not list(tmp_path.glob("outputs/*/*/config.yaml"))
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    return run


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("--trainer.max_epoch=1", "--trainer.max_epoch: no such option; did you mean --trainer.max_epochs?"),
        (
            "--data.batchsize=32",
            "--data.batchsize: the chosen class has no setting batchsize; did you mean --data.batch_size?",
        ),
        (
            "--model.loss.init_args.temprature=4",
            "the chosen class has no setting temprature; did you mean temperature?",
        ),
    ],
)
def test_a_misspelt_option_is_named_with_the_nearest(train, given, answer):
    assert answer in train("srkd", "phantom", given)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--lr=1e-3", "--model.learning_rate"),
        ("--trainer.lr=1e-3", "--model.learning_rate"),
        ("--epochs=1", "--trainer.max_epochs"),
        ("--batch-size=8", "--data.batch_size"),
        ("--weight_decay=0", "--model.weight_decay"),
        ("--root=x", "--data.root"),
        ("--gpus=1", "--trainer.devices"),
        ("--temperature=4", "--model.loss.init_args.temperature"),
        ("--resume=x", "--ckpt_path"),
        ("--max-epoch=1", "--trainer.max_epochs"),
    ],
)
def test_what_other_frameworks_call_an_option_is_answered_with_ours(train, given, meant):
    key = given.split("=")[0]
    assert train("srkd", "phantom", given) == f"error: {key}: no such option; did you mean {meant}?"


def test_every_synonym_is_an_option_of_the_command_line(monkeypatch, tmp_path):
    """A synonym that the command line refuses would send a user from one error to the next."""
    monkeypatch.chdir(tmp_path)
    values = {
        "--trainer.accelerator": "cpu",
        "--trainer.precision": "32",
        "--run": "x",
        "--ckpt_path": "null",
    }
    given = [f"{meant}={values.get(meant, '1')}" for meant in sorted(set(SYNONYMS.values()))]

    class Parsed(SonoDistillCLI):
        def before_instantiate_classes(self):
            raise KeyboardInterrupt

    argv = [*training_arguments("srkd", "phantom"), *given]
    monkeypatch.setattr(sys, "argv", ["experiments", *argv])
    with pytest.raises(KeyboardInterrupt):
        Parsed(argv, argv)


def test_a_synonym_of_no_option_of_this_command_is_not_suggested(capsys):
    parser = PlainErrorParser()
    parser.add_argument("--rounds", type=int)
    with pytest.raises(UsageError) as error:
        parser.parse_args(["--lr=1"])
    assert "did you mean" not in error.value.message


@pytest.mark.parametrize(
    ("asked", "devices", "answer"),
    [
        ("cuda", "auto", "this machine has no NVIDIA GPU that torch can use; "),
        ("mps", "auto", "this machine has no Apple GPU that torch can use; "),
        ("tpu", "auto", "this machine has no TPU that torch can use; "),
        ("gpu", 4, "this machine has no GPU that torch can use; "),
    ],
)
def test_a_device_that_is_not_there_is_named(monkeypatch, asked, devices, answer):
    for kind in (CUDAAccelerator, MPSAccelerator, XLAAccelerator):
        monkeypatch.setattr(kind, "is_available", staticmethod(lambda: False))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match=r"--trainer\.accelerator=auto") as refused:
        check_devices(Namespace(accelerator=asked, devices=devices, num_nodes=1))
    assert str(refused.value).startswith(f"trainer.accelerator={asked}, trainer.devices={devices}: {answer}")
    assert ("TORCH_BACKEND=" in str(refused.value)) == (asked in ("cuda", "gpu"))


def test_more_gpus_than_there_are_is_one_line(monkeypatch):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr("lightning.fabric.accelerators.cuda.num_cuda_devices", lambda: 1)
    monkeypatch.setattr("lightning.fabric.accelerators.cuda._get_all_visible_cuda_devices", lambda: [0])
    with pytest.raises(ValueError, match=r"machine only has: \[0\]") as refused:
        check_devices(Namespace(accelerator="cuda", devices=4, num_nodes=1))
    assert "\n" not in str(refused.value)


PROMPTS = {
    "planes": {name: ["x"] for name in ("brain", "abdomen", "heart", "femur", "cervix")},
    "subplanes": {name: ["x"] for name in ("trans-thalamic", "trans-cerebellum", "trans-ventricular")},
    "biometry": ["{weeks} weeks and {days} days"],
}


@pytest.mark.parametrize("option", ["--protocol", "--planes.protocol"])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"planes": {', "not a JSON file: Expecting property name"),
        ("[1]", "expected a JSON object, not list"),
        (
            json.dumps(PROMPTS | {"plane": {}}),
            "['plane'] are not among the keys",
        ),
        (json.dumps({key: PROMPTS[key] for key in ("planes", "subplanes")}), "biometry: "),
        (
            json.dumps(PROMPTS | {"planes": {"brain": ["x"], "heart": ["x"]}}),
            "planes: no prompts for ['abdomen', ",
        ),
    ],
)
def test_a_wrong_protocol_file_is_named_with_its_key(train, tmp_path, option, text, answer):
    path = tmp_path / "prompts.json"
    path.write_text(text)
    given = [*FEW, "--data.batch_size=2", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    line = train("no-kd", "phantom", "--model.teacher=null", *given, f"{option}={path}")
    assert line.startswith(f"error: {path}: {answer}")


def test_a_missing_folder_shows_before_a_missing_teacher(train, monkeypatch, tmp_path):
    monkeypatch.setenv("HC18_ROOT", str(tmp_path / "nowhere"))
    line = train("srkd", "hc18")
    assert line.startswith(f"error: HC18: folder {tmp_path / 'nowhere'} does not exist")
    assert "training_set_pixel_size_and_HC.csv" in line
    assert "HC18_ROOT=folder" in line


def accelerated():
    return torch.cuda.is_available() or torch.backends.mps.is_available()


FEW = [
    f"--data.corpus={asdict(PhantomSettings(num_planes_images=12, num_hc18_images=4, num_pair_images=0))}",
    "--data.root=phantom",
    "--data.cache=null",
]


@pytest.mark.parametrize(
    ("experiment", "given", "answer"),
    [
        (
            "no-kd",
            "--schedule=callbacks.OffDiagonalSchedule",
            "CLIPLoss has no off_diagonal_weight to schedule",
        ),
        ("srkd", "--schedule.init_args.hold=2", "schedule.hold: must lie between 0 and 1, not 2.0"),
        ("srkd", "--model.student.init_args.trunk=resnet1000", "timm has no model 'resnet1000'"),
        ("srkd", "--model.loss.init_args.temperature=0", "temperature"),
        pytest.param(
            "srkd",
            "--trainer.accelerator=gpu",
            "this machine has no GPU that torch can use; ",
            marks=pytest.mark.skipif(accelerated(), reason="there is a GPU"),
        ),
        ("srkd", "--data.num_workers=-1", "num_workers must be at least 0, not -1"),
    ],
)
def test_a_part_that_cannot_be_built_shows_before_the_corpus(train, tmp_path, experiment, given, answer):
    assert answer in train(experiment, "phantom", *FEW, given)
    assert not (tmp_path / "phantom").exists()


def test_a_benchmark_without_test_images_shows_before_the_training(train):
    given = [
        *FEW,
        "--data.batch_size=2",
        "--data.corpus.num_planes_images=120",
        "--data.val_share=0.5",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
    ]
    line = train("no-kd", "phantom", "--model.teacher=null", *given, "--data.hc18_test_share=0")
    assert "no image of benchmark 'hc18' in split 'test'" in line


def test_a_batch_that_the_corpus_does_not_fill_shows_before_the_training(train):
    line = train("srkd", "phantom", *FEW, "--data.batch_size=4000")
    assert "training images for each process cannot fill one batch; lower batch_size (4000)" in line


def test_building_the_parts_early_draws_no_random_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = []

    class Parsed(SonoDistillCLI):
        def instantiate_classes(self):
            drawn.append(torch.rand(1))
            raise KeyboardInterrupt

    argv = [*training_arguments("srkd", "phantom"), *FEW, "--data.batch_size=2"]
    argv += ["--data.corpus.num_planes_images=120", "--data.corpus.num_hc18_images=12"]
    monkeypatch.setattr(sys, "argv", ["experiments", *argv])
    with pytest.raises(KeyboardInterrupt):
        Parsed(argv, argv)
    torch.manual_seed(0)
    assert torch.equal(drawn[0], torch.rand(1)), "the first number of the run's seed"


def test_a_checkpoint_that_would_run_code_is_refused(train, tmp_path):
    target = tmp_path / "owned"
    torch.save({"state_dict": {}, "extra": Malicious(target)}, tmp_path / "evil.ckpt")
    line = train("srkd", "phantom", f"--ckpt_path={tmp_path / 'evil.ckpt'}")
    assert line.startswith(f"error: {tmp_path / 'evil.ckpt'}: refused, ")
    assert not target.exists()


def test_a_checkpoint_is_never_fetched(train):
    line = train("srkd", "phantom", "--ckpt_path=https://example.org/last.ckpt")
    assert (
        line
        == "error: --ckpt_path=https://example.org/last.ckpt: a URL; download it and give the file's path"
    )


def test_a_missing_checkpoint_shows_before_anything_is_trained(train):
    assert "nowhere.ckpt: no such file" in train("srkd", "phantom", "--ckpt_path=nowhere.ckpt")


@pytest.mark.parametrize("word", ["best", "last", "hpc"])
def test_a_word_for_a_checkpoint_without_its_run_is_refused(train, word):
    """The run's own folder is new, so that Lightning would find none and begin from nothing."""
    assert train("srkd", "phantom", f"--ckpt_path={word}").startswith(f"error: --ckpt_path={word}: ")


def test_the_named_run_has_to_hold_the_checkpoint(train):
    line = train("srkd", "phantom", "--ckpt_path=last", "--run=mine")
    assert line == "error: --ckpt_path=last: there is no outputs/srkd/mine/checkpoints/last.ckpt"


def test_a_runs_folder_is_answered_with_its_last_checkpoint(train, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    line = train("srkd", "phantom", f"--ckpt_path={folder}")
    assert line == f"error: --ckpt_path={folder}: a folder; give a checkpoint's file"
    last = folder / "checkpoints" / "last.ckpt"
    last.touch()
    line = train("srkd", "phantom", f"--ckpt_path={folder}")
    assert line == f"error: --ckpt_path={folder}: a folder; --ckpt_path={last}"


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("--trainer.max_epochs=-1", "set trainer.max_epochs or trainer.max_steps"),
        ("--trainer.max_epochs=0", "trainer.max_epochs=0 trains nothing"),
        ("--trainer.max_steps=0", "trainer.max_steps=0 trains nothing"),
        ("--trainer.limit_train_batches=0", "trainer.limit_train_batches=0 trains nothing"),
    ],
)
def test_a_training_without_an_end_or_a_step_shows_before_its_teacher_is_trained(train, given, answer):
    assert answer in train("srkd", "phantom", given)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("--trainer.devices=0", "error: "),
        ("--skipped.max_share=2", "max_share must lie in 0-1"),
    ],
)
def test_what_lightning_or_a_callback_refuses_is_one_line(train, given, answer):
    options = ("--quick=true", "--model.teacher=null", "--trainer.accelerator=cpu", given)
    assert answer in train("no-kd", "phantom", *options)
