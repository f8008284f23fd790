"""What make's variables become on the command line."""

import json

import pytest
import yaml

from datamodules.evaluation.protocol import DEFAULT_PROTOCOL
from experiments.commands import prompts
from experiments.commands.train import lightning_arguments
from experiments.config import data_arguments, expand_file_options, resolve
from experiments.recipe_files import tower


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"")
    return path


def test_folders_come_from_the_environment(monkeypatch):
    for name in ("HC18_ROOT", "PLANES_ROOT", "SHARDS"):
        monkeypatch.delenv(name, raising=False)
    assert data_arguments("shards") == []
    monkeypatch.setenv("PLANES_ROOT", "/x/planes")
    monkeypatch.setenv("SHARDS", "/x/pairs-{000000..000003}.tar")
    assert data_arguments("planes") == ["--data.init_args.root=/x/planes"]
    assert data_arguments("shards") == [
        "--data.init_args.urls=/x/pairs-{000000..000003}.tar",
        "--data.init_args.planes_root=/x/planes",
    ]
    assert data_arguments("phantom") == data_arguments("hc18") == []
    monkeypatch.setenv("HC18_ROOT", "")  # what make exports when the variable is not given
    assert data_arguments("hc18") == []


def test_users_own_arguments_come_last_and_win(monkeypatch):
    monkeypatch.setenv("PLANES_ROOT", "/x/planes")
    arguments = lightning_arguments(["train", "srkd", "planes", "--data.init_args.root=/y"])
    assert arguments.index("--data.init_args.root=/x/planes") < arguments.index("--data.init_args.root=/y")


def test_one_option_seeds_weights_and_data_unless_the_data_has_a_seed_of_its_own():
    three = "--seed_everything=3"
    for given, seeds in (
        ([], (0, 0)),
        ([three], (3, 3)),
        ([three, "--data.init_args.seed=0"], (3, 0)),
    ):
        config = resolve("srkd", "phantom", given)
        assert (config.seed_everything, config.data.init_args.seed) == seeds


def test_a_printed_configuration_seeds_weights_and_data_as_the_run_that_it_configures(tmp_path, capsys):
    with pytest.raises(SystemExit):
        resolve("no-kd", "phantom", ["--seed_everything=3", "--print_config"])
    printed = tmp_path / "own.yaml"
    printed.write_text(capsys.readouterr().out)
    assert yaml.safe_load(printed.read_text())["seed_everything"] == 3
    config = resolve("no-kd", "phantom", [f"--config={printed}"])
    assert (config.seed_everything, config.data.init_args.seed) == (3, 3)


def test_weights_and_prompts_are_spelt_out(weights):
    path = str(weights)
    loaded = {"class_path": "models.from_checkpoint", "init_args": {"path": path}}
    (teacher,) = expand_file_options("planes", [f"--teacher={path}"])
    assert teacher.startswith("--model.teacher=")
    assert json.loads(teacher.partition("=")[2]) == loaded
    assert expand_file_options("planes", ["--teacher", path]) == [teacher]
    assert expand_file_options("planes", [f"--student={path}"]) == [
        f"--model.student.init_args.weights={path}"
    ]
    (student,) = expand_file_options("phantom", [f"--student={path}"])
    assert json.loads(student.partition("=")[2]) == loaded
    assert expand_file_options("hc18", [f"--protocol={DEFAULT_PROTOCOL}", "--trainer.max_epochs=1"]) == [
        f"--biometry.protocol={DEFAULT_PROTOCOL}",
        f"--planes.protocol={DEFAULT_PROTOCOL}",
        "--trainer.max_epochs=1",
    ]


def test_scoring_the_teacher_puts_its_weights_in_the_students_place(weights):
    arguments = lightning_arguments(["evaluate", "planes", "teacher", f"--teacher={weights}"])
    own = [argument for argument in arguments if argument.startswith("--model.student=")]
    assert json.loads(own[-1].partition("=")[2])["init_args"] == {"path": str(weights)}
    assert "--model.teacher=null" in arguments
    assert "--representation.enabled=true" in arguments


@pytest.mark.parametrize(
    ("option", "named"), [("--teacher", "TEACHER=nowhere.pt"), ("--protocol", "PROTOCOL=")]
)
def test_a_missing_file_is_named_by_its_variable(option, named):
    with pytest.raises(FileNotFoundError, match=named):
        expand_file_options("planes", [f"{option}=nowhere.pt"])
    with pytest.raises(ValueError, match="give a path"):
        expand_file_options("planes", [option])


def test_the_real_presets_have_the_papers_towers():
    for preset in ("planes", "shards"):
        assert tower(preset, "student") == {
            "class_path": "models.OpenCLIPEncoder",
            "init_args": {"name": "MobileCLIP2-S0"},
        }
        assert tower(preset, "teacher")["init_args"] == {"name": "FetalCLIP"}
    assert tower("phantom", "student")["class_path"] == "models.TimmEncoder"


def test_the_import_says_how_to_use_what_it_wrote(tmp_path, capsys):
    checkout = tmp_path / "FetalCLIP" / "zero_shot"
    checkout.mkdir(parents=True)
    planes = {name: [f"an image of the {name}"] for name in ("brain", "abdomen", "heart", "femur", "cervix")}
    brains = {f"trans-{name}": ["a view"] for name in ("thalamic", "cerebellum", "ventricular")}
    (checkout / "planes.json").write_text(json.dumps(planes))
    (checkout / "subplanes.json").write_text(json.dumps(brains))
    (checkout / "age.py").write_text(
        'TEMPLATES = ["{weeks} weeks and {day} days, {pixel_spacing} mm"]\nraise SystemExit(9)'
    )
    target = tmp_path / "out" / "protocol.json"
    assert prompts.main(["import-protocol", str(checkout), "--out", str(target)]) == 0
    assert json.loads(target.read_text())["biometry"] == ["{weeks} weeks and {days} days, {spacing} mm"]
    assert f"PROTOCOL={target}" in capsys.readouterr().out
