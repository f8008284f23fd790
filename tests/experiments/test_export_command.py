"""Which corpus an export is calibrated and judged on, and what the run behind a checkpoint says of itself."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from experiments.export import load_student, parse
from experiments.origin import run_config, training_facts

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("HC18_ROOT", "PLANES_ROOT", "SHARDS")


@pytest.fixture(autouse=True)
def no_folders(monkeypatch):
    for variable in FOLDERS:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint in the folder of a run on HC18, with a split of its own."""
    arguments = {"root": "/scans/HC18", "split_seed": 3}
    teacher = {"class_path": "models.OpenCLIPEncoder", "init_args": {"name": "FetalCLIP", "weights": "f.pt"}}
    student = {"class_path": "models.OpenCLIPEncoder", "init_args": {"name": "MobileCLIP2-S0"}}
    config = {
        "data": {"class_path": "datamodules.HC18DataModule", "init_args": arguments},
        "model": {"teacher": teacher, "student": student, "loss": {"class_path": "losses.SRKDLoss"}},
    }
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def made(*arguments):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "-n", "-o", ".venv/.ready", "export", "CKPT=x.ckpt", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_make_hands_the_corpus_on_only_when_it_is_named():
    assert "x.ckpt --preset=hc18" in made("DATA=hc18")
    assert "--preset" not in made()


def test_a_named_corpus_is_read_from_its_variable(monkeypatch):
    monkeypatch.setenv("HC18_ROOT", "/x/HC18")
    config = parse(["x.ckpt", "--preset=hc18"])
    assert config.preset == "hc18"
    assert config.data.class_path == "datamodules.HC18DataModule"
    assert config.data.init_args.root == "/x/HC18"
    assert parse(["--preset", "hc18", "x.ckpt", "--data.root=/y"]).data.init_args.root == "/y"


def test_without_a_name_the_corpus_and_split_are_those_of_the_run(checkpoint, monkeypatch):
    for argv in ([str(checkpoint)], ["--out", "folder", str(checkpoint)], [str(checkpoint), "--preset=hc18"]):
        config = parse(argv)
        assert config.preset == "hc18"
        assert (config.data.init_args.root, config.data.init_args.split_seed) == ("/scans/HC18", 3)
    monkeypatch.setenv("HC18_ROOT", "/elsewhere")
    config = parse([str(checkpoint)])
    assert (config.data.init_args.root, config.data.init_args.split_seed) == ("/elsewhere", 3)
    assert parse([str(checkpoint), "--preset=phantom"]).data.class_path == "datamodules.PhantomDataModule"
    assert parse(["elsewhere.ckpt"]).preset == parse(["random:MobileCLIP2-S0"]).preset == "phantom"


@pytest.mark.parametrize("tail", [["--preset"], ["--preset="], ["--preset", "--text_encoder=true"]])
def test_a_preset_without_a_name_is_one_line(tail):
    with pytest.raises(ValueError, match=r"^--preset: give a data preset[^\n]*$"):
        parse(["x.ckpt", *tail])


def test_a_run_tells_its_data_teacher_and_start(checkpoint):
    facts = training_facts(run_config(str(checkpoint)))
    assert facts["data"] == "datamodules.HC18DataModule, root /scans/HC18"
    assert facts["teacher"] == "models.OpenCLIPEncoder, name FetalCLIP, weights f.pt"
    assert (facts["loss"], facts["start"]) == ("losses.SRKDLoss", "random weights")
    assert training_facts(None) == {}


def test_a_damaged_run_file_is_named(checkpoint):
    (checkpoint.parents[1] / "config.yaml").write_text("data: [")
    with pytest.raises(ValueError, match=r"config\.yaml: no YAML[^\n]*$"):
        parse([str(checkpoint)])


def test_a_runs_folder_in_the_place_of_its_export_is_told_apart(checkpoint):
    run = checkpoint.parents[1]
    (run / "export").mkdir()
    (run / "export" / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"EXPORT=.*run/export$"):
        load_student(str(run))
