"""A second run finds what the first one kept: real command lines and files around a pretended training."""

import json
import sys

import pytest
import torch

from experiments import __main__ as command_line
from experiments import small_teachers
from experiments.cli import SonoDistillCLI
from experiments.recipes import recipe_of
from experiments.small_teachers import ensure_teacher, publish_teacher, teacher_checkpoint
from experiments.teacher_recipe import overridden


class ResolvedError(Exception):
    """Carries the command line's object out, before anything is built."""


@pytest.fixture
def resolve(monkeypatch):
    """Return (configuration, recipe) of a short command, as the command line resolves it."""

    def stop(cli):
        raise ResolvedError(cli)

    def resolve(*arguments):
        argv = command_line._short_form(list(arguments))
        monkeypatch.setattr(sys, "argv", ["experiments", *argv])
        monkeypatch.setattr(SonoDistillCLI, "before_instantiate_classes", stop)
        with pytest.raises(ResolvedError) as caught:
            SonoDistillCLI(recipe_of(argv), arguments)
        cli = caught.value.args[0]
        return cli.config[cli.subcommand], cli.recipe

    return resolve


@pytest.fixture
def trained(tmp_path, monkeypatch, resolve):
    """Pretend every training, but resolve its command line and keep its teacher for real; collect its names."""
    monkeypatch.chdir(tmp_path)
    names = []

    def pretend(command, _):
        names.append("/".join(command[4:6]))
        finish(resolve, tmp_path, f"weights {len(names)}", *command[3:])
        return 0

    monkeypatch.setattr(small_teachers, "run_child", pretend)
    return names


def finish(resolve, folder, weights, *command):
    """End a run of the teacher with these weights."""
    config, recipe = resolve(*command)
    best = folder / "best.ckpt"
    best.write_text(weights)
    publish_teacher(best, recipe, config)


def start(resolve, *command):
    """Do what a run does about its teacher before it builds anything."""
    config, recipe = resolve(*command)
    ensure_teacher(config, recipe)


def test_a_second_run_trains_no_teacher(trained, resolve, capsys):
    start(resolve, "train", "srkd", "phantom")
    assert trained == ["teacher/phantom"]
    assert "the line to beat" not in capsys.readouterr().out
    start(resolve, "train", "no-kd", "phantom", "--seed_everything=1", "--data.seed=1")
    start(resolve, "evaluate", "phantom", "teacher")
    assert trained == ["teacher/phantom"]


def test_a_folder_is_the_same_however_it_is_spelt(trained, resolve, tmp_path, monkeypatch):
    monkeypatch.setenv("HC18_ROOT", "shared/../shared/HC18")
    start(resolve, "train", "srkd", "hc18")
    assert trained == ["teacher/hc18"], "the pretended run does not ask for the phantom's first"
    monkeypatch.setenv("HC18_ROOT", str(tmp_path / "shared" / "HC18"))
    start(resolve, "train", "srkd", "hc18")
    assert trained == ["teacher/hc18"]
    monkeypatch.setenv("HC18_ROOT", "elsewhere/HC18")
    start(resolve, "train", "srkd", "hc18")
    assert trained == ["teacher/hc18"] * 2


def test_a_try_of_the_teacher_is_not_kept_as_the_presets(trained, resolve, tmp_path, capsys):
    finish(resolve, tmp_path, "good", "train", "teacher", "phantom")
    kept = teacher_checkpoint("phantom")
    sidecar = kept.with_suffix(".json").read_text()
    capsys.readouterr()
    finish(resolve, tmp_path, "a try", "train", "teacher", "phantom", "--trainer.max_epochs=1")
    said = capsys.readouterr().out.strip()
    assert len(said.splitlines()) == 1
    assert "not kept as the teacher of DATA=phantom" in said
    assert "trainer.max_epochs" in said
    assert f"TEACHER={tmp_path / 'best.ckpt'}" in said
    assert kept.read_text() == "good"
    assert kept.with_suffix(".json").read_text() == sidecar
    start(resolve, "train", "srkd", "phantom")
    assert not trained


def test_what_makes_another_teacher(resolve):
    decisive = {
        "trainer.limit_train_batches": "3",
        "model.learning_rate": "0.1",
        "model.student.init_args.image_size": "64",
        "data.batch_size": "8",
        "paper_selection": "true",
    }
    config, recipe = resolve("train", "teacher", "phantom", *(f"--{k}={v}" for k, v in decisive.items()))
    assert overridden(config, recipe.preset) == sorted(decisive)
    harmless = ["--data.num_workers=0", "--data.split_seed=4", "--seed_everything=3"]
    harmless += ["--score_test_patients=false", "--trainer.enable_progress_bar=false"]
    config, recipe = resolve("train", "teacher", "phantom", *harmless)
    assert overridden(config, recipe.preset) == []


def test_a_teacher_of_other_patients_puts_the_kept_one_aside(resolve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finish(resolve, tmp_path, "one", "train", "teacher", "phantom")
    finish(resolve, tmp_path, "two", "train", "teacher", "phantom", "--data.split_seed=1")
    kept = teacher_checkpoint("phantom")
    assert kept.read_text() == "two"
    assert json.loads(kept.with_suffix(".json").read_text())["split_seed"] == 1
    assert [path.read_text() for path in kept.parent.glob("phantom-*.ckpt")] == ["one"]


def test_no_kd_says_why_it_has_a_teacher_trained(trained, resolve, capsys):
    start(resolve, "train", "no-kd", "phantom", "--model.teacher=null")
    assert not trained
    assert "teacher" not in capsys.readouterr().out
    start(resolve, "train", "no-kd", "phantom", "--trainer.max_epochs=1", "--data.batch_size=32")
    assert trained == ["teacher/phantom"]
    said = [line for line in capsys.readouterr().out.splitlines() if "needs no teacher" in line]
    assert len(said) == 1
    assert "ARGS=--model.teacher=null" in said[0]


def test_a_published_student_without_its_weights_is_told_once(resolve, tmp_path, capsys):
    weights = tmp_path / "weights.pt"
    weights.touch()
    for preset in ("planes", "shards"):
        start(resolve, "train", "srkd", preset, f"--teacher={weights}")
        (said,) = capsys.readouterr().out.splitlines()
        assert said.startswith("warning: model.student: MobileCLIP2-S0 has random weights; STUDENT=")
    start(resolve, "train", "srkd", "planes", f"--teacher={weights}", f"--student={weights}")
    # A resumed run has its weights in the checkpoint.
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    start(resolve, "train", "srkd", "planes", f"--teacher={weights}", f"--ckpt_path={tmp_path / 'last.ckpt'}")
    assert not capsys.readouterr().out
