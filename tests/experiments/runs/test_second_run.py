"""A second run finds what the first one kept: real command lines and files around a pretended training."""

import shutil
import sys

import pytest
import torch

from experiments import config
from experiments.commands import train as command_line
from experiments.runs import small_teachers
from experiments.runs.cli import SonoDistillCLI
from experiments.runs.small_teachers import publish_teacher, settle_teachers, teacher_digest


class ResolvedError(Exception):
    """Carries the command line's object out, before anything is built."""


@pytest.fixture
def resolve(monkeypatch):
    """Return (configuration, recipe) of a short command, as the command line resolves it."""

    def stop(cli):
        raise ResolvedError(cli)

    def resolve(*arguments):
        argv = command_line.lightning_arguments(list(arguments))
        monkeypatch.setattr(sys, "argv", ["experiments", *argv])
        monkeypatch.setattr(SonoDistillCLI, "before_instantiate_classes", stop)
        with pytest.raises(ResolvedError) as caught:
            SonoDistillCLI(argv, arguments)
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
    resolved, recipe = resolve(*command)
    settle_teachers(resolved, recipe, trains=True)
    best = folder / "best.ckpt"
    best.write_text(weights)
    publish_teacher(best, recipe, resolved)


def start(resolve, *command):
    """Do what a run does about its teacher before it builds anything, and return its teacher's file."""
    resolved, recipe = resolve(*command)
    settle_teachers(resolved, recipe, trains=command[0] == "train")
    return resolved.model[("student" if command[0] == "evaluate" else "teacher")]


def kept(tmp_path):
    return {path.name: path.read_text() for path in (tmp_path / "outputs" / "teachers").glob("*.ckpt")}


def test_a_second_run_trains_no_teacher(trained, resolve, capsys):
    first = start(resolve, "train", "srkd", "phantom")
    assert trained == ["teacher/phantom"]
    assert "the line to beat" not in capsys.readouterr().out
    seeded = start(resolve, "train", "no-kd", "phantom", "--seed_everything=1", "--data.seed=1")
    scored = start(resolve, "evaluate", "phantom", "teacher")
    assert trained == ["teacher/phantom"]
    assert first == seeded == scored


def test_an_evaluation_of_the_teacher_on_other_data_says_what_trains_it(trained, resolve, tmp_path):
    start(resolve, "train", "srkd", "phantom")
    with pytest.raises(FileNotFoundError, match="trained by make train EXP=teacher DATA=phantom ARGS=--data"):
        start(resolve, "evaluate", "phantom", "teacher", "--data.split_seed=1")
    assert trained == ["teacher/phantom"]
    assert list(kept(tmp_path).values()) == ["weights 1"]


def test_a_corpus_is_told_by_its_content(trained, resolve, tiny_hc18, tmp_path, monkeypatch):
    monkeypatch.setenv("HC18_ROOT", "HC18")
    first = start(resolve, "train", "srkd", "hc18")
    assert trained == ["teacher/hc18", "teacher/phantom"], "which the former goes on from"
    shutil.copytree(tiny_hc18, tmp_path / "copy")
    monkeypatch.setenv("HC18_ROOT", str(tmp_path / "copy"))
    assert start(resolve, "train", "srkd", "hc18") == first
    assert len(trained) == 2
    table = tmp_path / "copy" / "training_set_pixel_size_and_HC.csv"
    table.write_text(table.read_text().replace("000_HC.png", "900_HC.png"))
    assert start(resolve, "train", "srkd", "hc18") != first
    assert trained[2:] == ["teacher/hc18"]
    assert len(kept(tmp_path)) == 3


def test_a_try_of_the_teacher_is_kept_beside_the_presets(trained, resolve, tmp_path, capsys):
    finish(resolve, tmp_path, "good", "train", "teacher", "phantom")
    (good,) = kept(tmp_path)
    assert capsys.readouterr().out == f"teacher kept at outputs/teachers/{good}\n"
    finish(resolve, tmp_path, "a try", "train", "teacher", "phantom", "--trainer.max_epochs=1")
    (said,) = capsys.readouterr().out.splitlines()
    (other,) = kept(tmp_path).keys() - {good}
    assert said.startswith(
        f"teacher kept at outputs/teachers/{other}; its settings are not those of DATA=phantom"
    )
    assert f"TEACHER=outputs/teachers/{other}" in said
    assert kept(tmp_path) == {good: "good", other: "a try"}
    assert start(resolve, "train", "srkd", "phantom").init_args.path == f"outputs/teachers/{good}"
    assert not trained
    finish(resolve, tmp_path, "again", "train", "teacher", "phantom")
    assert kept(tmp_path)[good] == "good"
    assert f"TEACHER={tmp_path / 'best.ckpt'}" in capsys.readouterr().out


def test_what_makes_another_teacher(resolve):
    def digest(*options):
        return teacher_digest(resolve("train", "teacher", "phantom", *options)[0])

    own = teacher_digest(config.resolve("teacher", "phantom"))
    assert digest() == own
    harmless = ["--data.num_workers=0", "--score_test_patients=false", "--trainer.enable_progress_bar=false"]
    assert digest(*harmless, "--data.root=elsewhere") == own
    decisive = [
        "--trainer.limit_train_batches=0.5",
        "--model.learning_rate=0.1",
        "--model.student.init_args.image_size=64",
        "--data.batch_size=8",
        "--data.split_seed=4",
        "--data.corpus.num_planes_images=100",
        "--seed_everything=3",
        "--paper_selection=true",
        "--quick",
    ]
    assert len({own, *map(digest, decisive)}) == 1 + len(decisive)
    assert digest("--quick") == teacher_digest(config.resolve("teacher", "phantom", ["--quick=true"]))


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
