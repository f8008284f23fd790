"""The kept teachers: trained when missing or stale, once, and never over an older one."""

import json
import threading
import time

import pytest
from jsonargparse import Namespace

from experiments import small_teachers
from experiments.recipes import DEFAULT_PRESET, Recipe
from experiments.small_teachers import ensure_teacher, publish_teacher, teacher_checkpoint

PHANTOM = Recipe("srkd", DEFAULT_PRESET, ())
HC18 = Recipe("teacher", "hc18", ())


def settings(student=None, teacher=None, **data):
    towers = {"student": student, "teacher": teacher}
    model = Namespace(
        **{
            role: None if path is None else Namespace(init_args=Namespace(path=str(path)), class_path="x")
            for role, path in towers.items()
        }
    )
    init_args = Namespace(split_seed=0, batch_size=64, **data)
    return Namespace(
        model=model, data=Namespace(class_path="datamodules.PhantomDataModule", init_args=init_args)
    )


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Replace the training by its outcome; collect the command lines."""
    monkeypatch.chdir(tmp_path)
    commands = []

    def run(command, environment):
        commands.append((command, environment))
        time.sleep(0.05)
        made = tmp_path / "best.ckpt"
        made.write_text(f"weights {len(commands)}")
        preset = command[command.index("teacher") + 1]
        seed = next((part.split("=")[1] for part in command if part.startswith("--data.split_seed")), 0)
        config = settings(teacher=None)
        config.data.init_args.split_seed = int(seed)
        publish_teacher(made, Recipe("teacher", preset, ()), config)
        return 0

    monkeypatch.setattr(small_teachers, "overridden", lambda *_: [])  # see test_second_run.py
    monkeypatch.setattr(small_teachers, "run_child", run)
    return commands


def test_a_missing_teacher_is_trained_once_on_the_runs_own_split(trained, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    for variable in ("TORCHELASTIC_RUN_ID", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.setenv(variable, "x")
    config = settings(teacher=teacher_checkpoint("phantom"))
    config.data.init_args.split_seed = 3
    ensure_teacher(config, PHANTOM)
    ensure_teacher(config, PHANTOM)
    assert len(trained) == 1
    command, environment = trained[0]
    assert command[3:] == [
        "train", "teacher", "phantom", "--score_test_patients=false", "--data.split_seed=3"
    ]  # fmt: skip
    assert not {"LOCAL_RANK", "TORCHELASTIC_RUN_ID", "WANDB_RUN_ID", "WANDB_SWEEP_ID"} & set(environment)


def test_another_split_trains_anew_and_keeps_the_old_one(trained, capsys):
    path = teacher_checkpoint("phantom")
    ensure_teacher(settings(teacher=path), PHANTOM)
    other = settings(teacher=path)
    other.data.init_args.split_seed = 1
    ensure_teacher(other, PHANTOM)
    assert len(trained) == 2
    assert path.read_text() == "weights 2"
    kept = list(path.parent.glob("phantom-*.ckpt"))
    assert [file.read_text() for file in kept] == ["weights 1"]
    assert f"kept as {kept[0].relative_to(path.parent.parent.parent)}" in capsys.readouterr().out
    assert json.loads(kept[0].with_suffix(".json").read_text())["split_seed"] == 0


def test_a_teacher_that_continues_another_presets_one_has_that_trained_first(trained):
    ensure_teacher(settings(student=teacher_checkpoint("phantom")), HC18)
    assert [command[3:6] for command, _ in trained] == [["train", "teacher", "phantom"]]
    assert teacher_checkpoint("phantom").is_file()


def test_data_of_the_users_own_take_the_presets_teacher_as_it_is(trained):
    config = settings(teacher=teacher_checkpoint("phantom"))
    config.data = Namespace(class_path="mine.OwnData")
    ensure_teacher(config, PHANTOM)
    ensure_teacher(config, PHANTOM)
    assert [command[3:6] for command, _ in trained] == [["train", "teacher", "phantom"]]


def test_of_two_runs_at_once_one_trains(trained):
    config = settings(teacher=teacher_checkpoint("phantom"))
    runs = [threading.Thread(target=ensure_teacher, args=(config, PHANTOM)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(trained) == 1


def test_a_teacher_of_the_users_own_is_left_alone(trained, tmp_path):
    ensure_teacher(settings(teacher=tmp_path / "own.ckpt"), PHANTOM)
    assert not trained


def test_a_failed_training_says_where_the_teacher_would_be(trained, monkeypatch):
    monkeypatch.setattr(small_teachers, "run_child", lambda *_: 1)
    with pytest.raises(ValueError, match=r"training the teacher failed.*outputs/teachers/phantom\.ckpt"):
        ensure_teacher(settings(teacher=teacher_checkpoint("phantom")), PHANTOM)
