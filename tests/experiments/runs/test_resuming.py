"""What an interrupted run says works as it stands, and no run goes on as another one."""

import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from safetensors.torch import save_file

from experiments.config import resolve
from experiments.runs.resuming import changed_settings, check_fit, check_same_run, resumable, resume_command
from experiments.runs.run_folder import keep_config, read_metrics, run_folder
from tests.conftest import make

LAST = Path("outputs/no-kd/r/checkpoints/last.ckpt")
OPTIONS = [
    "--teacher=my teacher.pt",
    "--trainer.max_epochs=3",
    '--model.student={"class_path": "models.from_checkpoint"}',
    "--run=it's $5",
]


def words_after_make(line):
    """Return what make hands to the module of experiments, as its shell would split it."""
    words = shlex.split(make("-n", *shlex.split(line)[1:]).stdout)
    return words[words.index("experiments") + 1 :]


def test_an_evaluation_that_is_repeated_leaves_the_training_row_of_its_step(tmp_path):
    rows = {"metrics-000": "199,,0.2\n399,1.5,\n399,,0.7\n", "metrics": "399,,0.8\n599,1.2,\n"}
    for name, text in rows.items():
        (tmp_path / f"{name}.csv").write_text(f"step,train/loss,val/composite\n{text}")
    found = read_metrics(tmp_path)
    assert found["step"].tolist() == [199, 399, 399, 599]
    assert found["train/loss"].dropna().tolist() == [1.5, 1.2]
    assert found["val/composite"].dropna().tolist() == [0.2, 0.8]


def test_a_run_that_make_began_is_resumed_with_all_it_was_asked_for(monkeypatch):
    monkeypatch.delenv("HC18_ROOT", raising=False)
    line = resume_command(["train", "no-kd", "hc18", *OPTIONS], LAST)
    assert line.startswith("make train EXP=no-kd DATA=hc18 ARGS=")
    assert words_after_make(line) == ["train", "no-kd", "hc18", *OPTIONS, f"--ckpt_path={LAST}"]


def test_a_folder_that_a_variable_gave_is_named(monkeypatch):
    monkeypatch.setenv("HC18_ROOT", "/data/my HC18")
    line = resume_command(["train", "srkd", "hc18"], LAST)
    assert "HC18_ROOT=/data/my HC18" in shlex.split(line)
    assert "HC18_ROOT" not in resume_command(["train", "srkd", "phantom"], LAST)


@pytest.mark.parametrize("before", [["--ckpt_path=old.ckpt"], ["--ckpt_path", "old.ckpt"]])
def test_a_second_interruption_names_one_checkpoint(before):
    line = resume_command(["train", "no-kd", "phantom", *before, "--run=r"], LAST)
    assert words_after_make(line) == ["train", "no-kd", "phantom", "--run=r", f"--ckpt_path={LAST}"]


def test_a_run_of_the_long_form_is_resumed_by_it():
    end = ("--schedule.init_args.end", "-0.5")  # a number, not an option
    words = ["fit", "--config", "experiments/recipes/srkd.yaml", *end, "--trust", "--trainer.max_epochs=3"]
    line = resume_command(words, LAST)
    assert shlex.split(line)[1:] == [
        "-m", "experiments", "fit", "--config=experiments/recipes/srkd.yaml", "=".join(end), "--trust",
        "--trainer.max_epochs=3", f"--ckpt_path={LAST}",
    ]  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    began = {"experiment": "no-kd", "data": {"class_path": "datamodules.HC18DataModule"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(began))
    return str(tmp_path / "checkpoints" / "last.ckpt")


def asked(experiment="no-kd", data="datamodules.HC18DataModule"):
    return Namespace(experiment=experiment, data=Namespace(class_path=data))


def test_the_same_run_goes_on(checkpoint, tmp_path):
    check_same_run(checkpoint, asked())
    check_same_run(str(tmp_path / "elsewhere.ckpt"), asked("srkd"))


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "/x"])
def test_a_run_stays_below_outputs(name):
    with pytest.raises(ValueError, match=rf"^--run={name}: a folder's name below outputs/, not a path$"):
        run_folder("srkd", "phantom", 0, name, None)
    with pytest.raises(ValueError, match=rf"^--experiment={name}: "):
        run_folder(name, "phantom", 0, None, None)


@pytest.mark.parametrize(
    ("other", "answer"),
    [
        ({"experiment": "srkd"}, r"this run's experiment is no-kd, not srkd; resume with the EXP= and DATA="),
        (
            {"data": "datamodules.PhantomDataModule"},
            r"data is datamodules.HC18DataModule, not datamodules.Phantom",
        ),
    ],
)
def test_another_experiment_or_other_data_are_refused(checkpoint, other, answer):
    with pytest.raises(ValueError, match=answer) as error:
        check_same_run(checkpoint, asked(**other))
    assert checkpoint in str(error.value)


def save_settings(folder, config):
    text = yaml.safe_dump(json.loads(json.dumps(config.as_dict(), default=str)))
    (folder / "config.yaml").write_text(text)


def test_a_run_that_goes_on_with_other_settings_says_which(tmp_path):
    save_settings(tmp_path, resolve("srkd", "phantom"))
    same = resolve("srkd", "phantom", ["--data.num_workers=1", "--trainer.log_every_n_steps=7"])
    assert changed_settings(tmp_path, same) is None
    other = resolve("srkd", "phantom", ["--model.loss.temperature=2", "--data.batch_size=16"])
    said = (
        "this run began with other settings: data.init_args.batch_size 48, now 16, "
        "model.loss.init_args.temperature 5.0, now 2.0"
    )
    assert changed_settings(tmp_path, other) == said
    keep_config(tmp_path)
    save_settings(tmp_path, other)
    assert changed_settings(tmp_path, other) == said, "it stays a mixed run"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("schedule.init_args.start", 1.0, "schedule.init_args.start 2.0, now 1.0"),
        ("schedule", None, "schedule set, now None"),
        ("model.teacher", Namespace(class_path="x"), "model.teacher None, now set"),
        ("seed_everything", 9, "seed_everything 0, now 9"),
        ("trainer.limit_train_batches", 2, "trainer.limit_train_batches None, now 2"),
        ("trainer.overfit_batches", 3, "trainer.overfit_batches 0.0, now 3"),
    ],
)
def test_every_setting_that_changes_what_is_learnt_is_named(tmp_path, name, value, said):
    config = Namespace(seed_everything=0, model=Namespace(teacher=None), data=Namespace())
    config.schedule = Namespace(init_args=Namespace(start=2.0))
    config.trainer = Namespace(limit_train_batches=None, overfit_batches=0.0)
    save_settings(tmp_path, config)
    assert changed_settings(tmp_path, config) is None
    config[name] = value
    assert changed_settings(tmp_path, config) == f"this run began with other settings: {said}"


@pytest.fixture
def saved(tmp_path):
    """The last checkpoint of a run and its predecessor."""
    folder = tmp_path / "outputs" / "srkd" / "r" / "checkpoints"
    folder.mkdir(parents=True)
    for step, name in enumerate(("previous", "last", "best")):
        content = {"state_dict": {"w": torch.full((99,), float(step))}, "loops": {}, "student": {}}
        torch.save(content, folder / f"{name}.ckpt")
    return folder


def damage(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.faults
def test_a_damaged_last_checkpoint_falls_back_on_its_predecessor_in_one_line(saved, capsys):
    assert resumable(str(saved / "last.ckpt"), "srkd", None) == str(saved / "last.ckpt")
    assert capsys.readouterr().out == ""
    damage(saved / "last.ckpt")
    assert resumable(str(saved / "last.ckpt"), "srkd", None) == str(saved / "previous.ckpt")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"warning: {saved}/last.ckpt: damaged (")
    assert line.endswith(f"resuming from its predecessor {saved}/previous.ckpt")
    damage(saved / "previous.ckpt")
    with pytest.raises(ValueError, match=r"previous\.ckpt: damaged"):
        resumable(str(saved / "last.ckpt"), "srkd", None)


@pytest.mark.faults
def test_no_other_damaged_checkpoint_is_replaced_by_one(saved):
    for name in ("best", "previous"):
        damage(saved / f"{name}.ckpt")
        with pytest.raises(ValueError, match=rf"^[^\n]*{name}\.ckpt: damaged \([^\n]*$"):
            resumable(str(saved / f"{name}.ckpt"), "srkd", None)


@pytest.mark.parametrize("name", ["mobileclip2_s0.pt", "lightning.ckpt", "student.safetensors"])
def test_a_file_that_no_training_here_has_written_is_refused(tmp_path, name):
    path, weights = tmp_path / name, {"w": torch.zeros(2)}
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights, "loops": {}} if path.suffix == ".ckpt" else weights, path)
    with pytest.raises(ValueError, match=rf"^[^\n]*not written by a training [^\n]* STUDENT={path}$"):
        resumable(str(path), "srkd", None)


@pytest.mark.parametrize(
    ("checkpoint", "run", "line"),
    [
        ("https://example.org/last.ckpt", None, "a URL; download it and give the file's path"),
        ("hpc", None, "not supported; give the file's path"),
        ("best", None, "no run is named; give outputs/EXP/RUN/checkpoints/best.ckpt, or --run=RUN"),
        ("last", "mine", "there is no outputs/srkd/mine/checkpoints/last.ckpt"),
        ("run", None, "a folder; --ckpt_path=run/checkpoints/last.ckpt"),
        ("run/checkpoints", None, "a folder; give a checkpoint's file"),
    ],
)
def test_what_is_no_file_of_a_checkpoint_is_refused(tmp_path, monkeypatch, checkpoint, run, line):
    """Lightning would fetch the URL, and begin from nothing where it finds none."""
    monkeypatch.chdir(tmp_path)
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/last.ckpt").touch()
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        resumable(checkpoint, "srkd", run)
    assert str(refused.value) == f"--ckpt_path={checkpoint}: {line}"


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ({"max_epochs": -1}, "set trainer.max_epochs or trainer.max_steps"),
        ({"max_epochs": 0}, "trainer.max_epochs=0 trains nothing"),
        ({"max_steps": 0}, "trainer.max_steps=0 trains nothing"),
        ({"limit_train_batches": 0}, "trainer.limit_train_batches=0 trains nothing"),
    ],
)
def test_a_training_without_an_end_or_a_step_is_refused(setting, answer):
    trainer = {"max_epochs": 1, "max_steps": -1, "limit_train_batches": 1.0} | setting
    with pytest.raises(ValueError, match=answer):
        check_fit(Namespace(trainer=Namespace(trainer)))
