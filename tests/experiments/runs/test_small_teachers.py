"""The kept teachers: trained when missing, once, side by side under a digest of what they depend on."""

import threading
import time

import pytest
from jsonargparse import Namespace

from experiments.config import resolve
from experiments.recipe_files import DEFAULT_PRESET, Recipe
from experiments.runs import small_teachers
from experiments.runs.small_teachers import kept_teacher, settle_teachers

PHANTOM = Recipe("srkd", DEFAULT_PRESET, ())
HC18 = Recipe("teacher", "hc18", ())


def tower(path):
    return None if path is None else Namespace(init_args=Namespace(path=str(path)), class_path="x")


def settings(student=None, teacher=None, **data):
    own = resolve("teacher", "phantom").data.init_args
    for name, value in data.items():
        own[name] = value
    return Namespace(
        model=Namespace(student=tower(student), teacher=tower(teacher)),
        data=Namespace(class_path="datamodules.PhantomDataModule", init_args=own),
        quick=None,
    )


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Replace the training by its outcome; collect the command lines."""
    monkeypatch.chdir(tmp_path)
    commands = []

    def run(command, environment):
        commands.append((command, environment))
        time.sleep(0.05)
        path = kept_teacher(command[5], command[7:])
        assert not path.exists(), "no teacher is overwritten"
        path.write_text(f"weights {len(commands)}")
        return 0

    monkeypatch.setattr(small_teachers, "run_child", run)
    return commands


def teacher_of(config, recipe=PHANTOM, trains=True):
    settle_teachers(config, recipe, trains)
    return config.model.teacher.init_args.path


def test_a_missing_teacher_is_trained_once_on_the_runs_own_split(trained, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    for variable in ("TORCHELASTIC_RUN_ID", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.setenv(variable, "x")
    first = teacher_of(settings(teacher="teacher:phantom", split_seed=3))
    assert teacher_of(settings(teacher="teacher:phantom", split_seed=3)) == first
    assert len(trained) == 1
    command, environment = trained[0]
    assert command[3:] == [
        "train", "teacher", "phantom", "--score_test_patients=false", "--data.split_seed=3"
    ]  # fmt: skip
    assert not {"LOCAL_RANK", "TORCHELASTIC_RUN_ID", "WANDB_RUN_ID", "WANDB_SWEEP_ID"} & set(environment)


def test_a_try_on_a_small_corpus_leaves_the_good_teacher_where_it_is(trained, tmp_path):
    good = teacher_of(settings(teacher="teacher:phantom"))
    corpus = settings().data.init_args.corpus.as_dict() | {"num_planes_images": 100}
    small = teacher_of(settings(teacher="teacher:phantom", corpus=Namespace(**corpus)))
    quick = settings(teacher="teacher:phantom", most_images=24)
    quick.quick = True
    paths = [good, small, teacher_of(quick)]
    assert [(tmp_path / path).read_text() for path in paths] == ["weights 1", "weights 2", "weights 3"]
    assert teacher_of(settings(teacher="teacher:phantom")) == good
    assert len(trained) == 3
    assert trained[2][0][7:] == ["--quick=true"]


def test_a_teacher_that_continues_another_presets_one_has_that_trained_first(trained):
    config = settings(student="teacher:phantom")
    settle_teachers(config, HC18, trains=True)
    assert [command[3:6] for command, _ in trained] == [["train", "teacher", "phantom"]]
    assert config.model.student.init_args.path == str(kept_teacher("phantom"))


def test_data_of_the_users_own_take_the_presets_teacher_as_it_is(trained):
    for _ in range(2):
        config = settings(teacher="teacher:phantom")
        config.data = Namespace(class_path="mine.OwnData")
        assert teacher_of(config) == str(kept_teacher("phantom"))
    assert [command[3:] for command, _ in trained] == [
        ["train", "teacher", "phantom", "--score_test_patients=false"]
    ]


def test_of_two_runs_at_once_one_trains(trained):
    configs = [settings(teacher="teacher:phantom") for _ in range(2)]
    runs = [threading.Thread(target=teacher_of, args=(config,)) for config in configs]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(trained) == 1


def test_a_teacher_of_the_users_own_is_left_alone(trained, tmp_path):
    assert teacher_of(settings(teacher=tmp_path / "own.ckpt")) == str(tmp_path / "own.ckpt")
    assert not trained


def test_an_evaluation_trains_no_teacher_and_says_what_does(trained, tmp_path):
    kept = teacher_of(settings(teacher="teacher:phantom"))
    wanted = settings(student="teacher:phantom", split_seed=4)
    with pytest.raises(FileNotFoundError) as refusal:
        settle_teachers(wanted, PHANTOM, trains=False)
    message = str(refusal.value)
    assert "trained by make train EXP=teacher DATA=phantom ARGS=--data.split_seed=4" in message
    assert f"CKPT={kept} is one of other data or settings" in message
    assert "\n" not in message
    assert len(trained) == 1
    assert [path.name for path in (tmp_path / "outputs" / "teachers").glob("*.ckpt")] == [
        kept[len("outputs/teachers/") :]
    ]


def test_a_failed_training_says_where_the_teacher_would_be(trained, monkeypatch):
    monkeypatch.setattr(small_teachers, "run_child", lambda *_: 1)
    with pytest.raises(
        ValueError, match=r"training the teacher failed.*outputs/teachers/phantom-\w{16}\.ckpt"
    ):
        teacher_of(settings(teacher="teacher:phantom"))
