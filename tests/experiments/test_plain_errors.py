"""A user's mistakes on the training command line: one line that names the key and the remedy, and no training."""

import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator

from datamodules.phantom.corpus import PhantomSettings
from experiments import __main__ as command_line
from experiments.config import _ParseOnlyCLI
from experiments.plain_errors import SYNONYMS, PlainErrorParser, UsageError
from experiments.recipe_files import training_arguments
from experiments.runs.cli import SonoDistillCLI
from experiments.runs.early_checks import check_devices
from tests.models.checkpoints.test_weights import Malicious

WORDS = [*training_arguments("no-kd", "phantom"), "--model.teacher=null", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def parser():
    """The parser of the training command line, which takes a second to build."""
    return _ParseOnlyCLI(WORDS).parser


@pytest.fixture
def answer(parser, monkeypatch):
    """Parse a training without a teacher with more arguments; return the one line of the refusal."""

    def parse(*given):
        monkeypatch.setattr(sys, "argv", ["experiments", *WORDS, *given])
        with pytest.raises(UsageError) as refused:
            parser.parse_args(sys.argv[1:])
        assert "\n" not in refused.value.message
        return refused.value.message

    return parse


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
    ("given", "line"),
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
        (
            "--shedule.init_args.start=4",
            "--shedule.init_args.start: no such option; did you mean --schedule.init_args.start?",
        ),
        (
            '--model.student={"class_path": "models.TransformersEncoder", "init_args": {"path": "x"}}',
            "the chosen class has no setting path; it has folder, pretrained",
        ),
        ("--data=null", "--data: give a value"),
    ],
)
def test_a_misspelt_option_is_named_with_the_nearest(answer, given, line):
    assert line in answer(given)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--lr=1e-3", "--model.learning_rate"),
        ("--trainer.lr=1e-3", "--model.learning_rate"),
        ("--batch-size=8", "--data.batch_size"),
        ("--temperature=4", "--model.loss.init_args.temperature"),
        ("--max-epoch=1", "--trainer.max_epochs"),
        ("--LR=1e-3", "--model.learning_rate"),
    ],
)
def test_what_other_frameworks_call_an_option_is_answered_with_ours(answer, given, meant):
    key = given.split("=")[0]
    assert answer(given) == f"{key}: no such option; did you mean {meant}?"


def test_an_option_like_no_other_is_answered_with_the_list_of_options(answer):
    assert answer("--zzqq=1") == "--zzqq: no such option; --help lists the options"


def test_every_synonym_is_an_option_of_the_command_line(parser, monkeypatch):
    """A synonym that the command line refuses would send a user from one error to the next."""
    values = {
        "--trainer.accelerator": "cpu",
        "--trainer.precision": "32",
        "--run": "x",
        "--ckpt_path": "null",
    }
    given = [f"{meant}={values.get(meant, '1')}" for meant in sorted(set(SYNONYMS.values()))]
    argv = [*training_arguments("srkd", "phantom"), *given]
    monkeypatch.setattr(sys, "argv", ["experiments", *argv])
    assert parser.parse_args(argv).fit.run == "x"


@pytest.mark.parametrize("given", ["--lr=1", "--val_shares=0.1"])
def test_an_option_of_another_command_is_not_suggested(given):
    parser = PlainErrorParser()
    parser.add_argument("--rounds", type=int)
    with pytest.raises(UsageError) as error:
        parser.parse_args([given])
    assert "did you mean" not in error.value.message


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("--data.batch_size=many", "expected int"),
        ("--data.on_error=ignore", "expected raise or skip"),
        ("--trainer.max_epochs=few", "expected int or null"),
        ("--trainer=5", "Unable to load config '5'"),
        (
            "--model.loss=losses.SRKDLos",
            "module 'losses' has no attribute 'SRKDLos'; did you mean losses.SRKDLoss?",
        ),
        (
            "--model.student=models.TimmEncode",
            "No models attribute TimmEncode; did you mean models.TimmEncoder?",
        ),
        ("--model.loss=mine.Loss", "No module named 'mine'"),
        ("--model.loss=collections.Nope", "module 'collections' has no attribute 'Nope'"),
        ("--model.loss=SRKDLoz", "expected dot import path string or null"),
        (
            "--schedule.class_path=callbacks.OffDiagonalSchedul",
            "module 'callbacks' has no attribute 'OffDiagonalSchedul'; did you mean callbacks.OffDiagonalSchedule?",
        ),
    ],
)
def test_a_bad_value_is_answered_with_its_reason_alone(answer, given, reason):
    assert answer(given) == f"{given}: {reason}"


def test_the_choices_of_several_types_are_one_list(answer):
    line = answer("--trainer.precision=17")
    assert line.startswith("--trainer.precision=17: expected 64 or 32 or 16 or ")
    assert line.count("64 or ") == 1


def test_a_value_inside_another_is_named_by_its_key(answer):
    loss = '{"class_path": "losses.SRKDLoss", "init_args": {"temperature": "hot"}}'
    assert answer(f"--model.loss={loss}") == "temperature: expected float, not hot"


@pytest.mark.parametrize(
    ("option", "more"),
    [("--data.batch_size", []), ("--data.batch_size", ["--seed_everything=3"]), ("--trainer.devices", [])],
)
def test_an_option_without_its_value_is_named(answer, option, more):
    assert answer(option, *more) == f"{option}: give a value, {option}=VALUE"


@pytest.mark.parametrize("given", [["--data.root=x"], ["--data.root", "x"]])
def test_an_option_without_its_value_is_named_behind_one_that_has_its_value(answer, given):
    assert answer(*given, "--data.batch_size") == "--data.batch_size: give a value, --data.batch_size=VALUE"


@pytest.mark.parametrize("named", ["--model.loss", "--model.loss.class_path"])
@pytest.mark.parametrize("key", ["--model.loss.temprature", "--model.loss.init_args.temprature"])
def test_only_settings_of_the_named_class_are_suggested(answer, named, key):
    line = answer(f"{named}=losses.CLIPLoss", f"{key}=3")
    assert line.startswith(f"{key}: the chosen class has no setting temprature; it has ")
    assert "temperature" not in line


def test_a_setting_that_a_class_requires_is_named(answer):
    assert answer("--model.loss=losses.CombinedLoss") == "losses: a chosen class needs it in its init_args"


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_named(train, seed):
    assert train("no-kd", "phantom", f"--seed_everything={seed}") == (
        f"error: --seed_everything={seed}: give a number from 0 to 4294967295"
    )


def test_a_setting_of_another_class_is_not_its_own_suggestion(answer):
    line = answer("--model.student.init_args.pretrained=maybe")
    assert "the chosen class has no setting pretrained" in line
    assert "did you mean pretrained?" not in line


@pytest.mark.parametrize(
    ("asked", "devices"), [("cuda", "auto"), ("mps", "auto"), ("tpu", "auto"), ("gpu", 4)]
)
def test_a_device_that_is_not_there_is_named(monkeypatch, asked, devices):
    for kind in (CUDAAccelerator, MPSAccelerator, XLAAccelerator):
        monkeypatch.setattr(kind, "is_available", staticmethod(lambda: False))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match=r"^[^\n]*; --trainer\.accelerator=auto [^\n]*$") as refused:
        check_devices(Namespace(accelerator=asked, devices=devices, num_nodes=1))
    assert str(refused.value).startswith(f"trainer.accelerator={asked}, trainer.devices={devices}: ")
    assert ("TORCH_BACKEND=" in str(refused.value)) == (asked in ("cuda", "gpu"))


def test_more_gpus_than_there_are_is_one_line(monkeypatch):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr("lightning.fabric.accelerators.cuda.num_cuda_devices", lambda: 1)
    monkeypatch.setattr("lightning.fabric.accelerators.cuda._get_all_visible_cuda_devices", lambda: [0])
    with pytest.raises(ValueError, match=r"machine only has: \[0\]") as refused:
        check_devices(Namespace(accelerator="cuda", devices=4, num_nodes=1))
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=r"; give --trainer\.devices=1, or --trainer\.accelerator=cpu$"):
        check_devices(Namespace(accelerator="auto", devices=4, num_nodes=1))


FEW = [
    f"--data.corpus={asdict(PhantomSettings(num_planes_images=12, num_hc18_images=4, num_pair_images=0))}",
    "--data.root=phantom",
    "--data.cache=null",
]


def test_a_missing_folder_shows_before_a_missing_teacher(train, monkeypatch, tmp_path):
    monkeypatch.setenv("HC18_ROOT", str(tmp_path / "nowhere"))
    line = train("srkd", "hc18")
    assert line.startswith(f"error: HC18: folder {tmp_path / 'nowhere'} does not exist")
    assert "training_set_pixel_size_and_HC.csv" in line
    assert "HC18_ROOT=folder" in line


def accelerated():
    return torch.cuda.is_available() or torch.backends.mps.is_available()


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("--data.batch_size=0", "data: batch_size must be at least 1, not 0"),
        ("--schedule.init_args.hold=2", "schedule.hold: must lie between 0 and 1, not 2.0"),
        ("--model.student.init_args.trunk=resnet1000", "timm has no model 'resnet1000'"),
        ("--model.loss.init_args.temperature=0", "temperature"),
        ("--data.num_workers=-1", "num_workers must be at least 0, not -1"),
        pytest.param(
            "--trainer.accelerator=gpu",
            "trainer.accelerator=gpu, trainer.devices=auto: ",
            marks=pytest.mark.skipif(accelerated(), reason="there is a GPU"),
        ),
    ],
)
def test_a_part_that_cannot_be_built_shows_before_the_corpus(train, tmp_path, given, answer):
    assert answer in train("srkd", "phantom", *FEW, given)
    assert not (tmp_path / "phantom").exists()


@pytest.fixture
def drawn(small_phantom):
    return [*small_phantom, "--data.batch_size=2", "--data.cache=null"]


def test_a_wrong_protocol_file_is_named(train, tmp_path, drawn):
    path = tmp_path / "prompts.json"
    path.write_text('{"planes": {')
    given = [*drawn, "--trainer.accelerator=cpu", "--trainer.logger=false"]
    line = train("no-kd", "phantom", "--model.teacher=null", *given, f"--protocol={path}")
    assert line.startswith(f"error: {path}: not a JSON file: Expecting property name")


def test_building_the_parts_early_draws_no_random_number(tmp_path, monkeypatch, drawn):
    monkeypatch.chdir(tmp_path)
    numbers = []

    class Parsed(SonoDistillCLI):
        def instantiate_classes(self):
            numbers.append(torch.rand(1))
            raise KeyboardInterrupt

    argv = [*training_arguments("srkd", "phantom"), *drawn]
    monkeypatch.setattr(sys, "argv", ["experiments", *argv])
    with pytest.raises(KeyboardInterrupt):
        Parsed(argv, argv)
    torch.manual_seed(0)
    assert torch.equal(numbers[0], torch.rand(1)), "the first number of the run's seed"


def test_a_checkpoint_that_would_run_code_is_refused(train, tmp_path):
    target = tmp_path / "owned"
    torch.save({"state_dict": {}, "extra": Malicious(target)}, tmp_path / "evil.ckpt")
    line = train("srkd", "phantom", f"--ckpt_path={tmp_path / 'evil.ckpt'}")
    assert line.startswith(f"error: {tmp_path / 'evil.ckpt'}: refused, ")
    assert not target.exists()


def test_a_missing_checkpoint_shows_before_anything_is_trained(train):
    assert "nowhere.ckpt: no such file" in train("srkd", "phantom", "--ckpt_path=nowhere.ckpt")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "phantom"], ["train needs EXP=NAME and DATA=NAME", "no-kd", "srkd-qat", "hc18, phantom"]),
        (
            ["train", "srkd", "phantom", "max_epochs=1"],
            ["max_epochs=1: unexpected argument", "--trainer.max_epochs=1"],
        ),
        (["evaluate", "phantom"], ["evaluate needs CKPT=path/to/best.ckpt, or EXP=teacher"]),
    ],
)
def test_a_command_with_other_words_than_its_names_is_told_which(monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", ["experiments", *words])
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(part in line for part in said)


def test_a_file_that_is_no_checkpoint_shows_before_the_data_are_read(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HC18_ROOT", str(tmp_path / "nowhere"))
    Path("best.ckpt").write_bytes(b"no model")
    monkeypatch.setattr(sys, "argv", ["experiments", "evaluate", "hc18", "best.ckpt"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert capsys.readouterr().err.startswith("error: best.ckpt: damaged")
    assert not (tmp_path / "outputs").exists()


def test_a_missing_package_of_a_checkout_that_is_not_installed_keeps_its_name(monkeypatch):
    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(command_line, "requires", not_installed)
    assert command_line._message(ModuleNotFoundError("no tqdm", name="tqdm")) is None  # so that it is raised
