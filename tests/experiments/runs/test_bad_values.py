"""A setting's bad value on the training command line: one line with the argument, the reason and what would do."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as command_line


@pytest.fixture
def answer(monkeypatch, tmp_path, capsys):
    """Train without a teacher in an empty folder, with more arguments; return the one line on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*given):
        words = ["train", "no-kd", "phantom", "--model.teacher=null", "--trainer.accelerator=cpu", *given]
        monkeypatch.setattr(sys, "argv", ["experiments", *words])
        with pytest.raises(SystemExit) as stop:
            command_line.main()
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line.removeprefix("error: ")

    return run


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


@pytest.mark.parametrize("more", [[], ["--seed_everything=3"]])
@pytest.mark.parametrize("option", ["--data.batch_size", "--trainer.devices"])
def test_an_option_without_its_value_is_named(answer, option, more):
    assert answer(option, *more) == f"{option}: give a value, {option}=VALUE"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            ["--data.batch_size=0"],
            "data: batch_size must be at least 1, not 0",
        ),
        (
            ["--schedule=callbacks.OffDiagonalSchedule", "--schedule.init_args.hold=2"],
            "schedule.hold: must lie between 0 and 1, not 2.0",
        ),
    ],
)
def test_what_a_class_refuses_is_told_in_its_own_words(answer, given, line):
    assert answer(*given, "--seed_everything=false") == line


def test_a_setting_of_another_class_is_not_its_own_suggestion(answer):
    line = answer("--model.student.init_args.pretrained=maybe")
    assert "the chosen class has no setting pretrained" in line
    assert "did you mean pretrained?" not in line


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


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("given", "model"), [([], ""), (["EXP=teacher"], "teacher"), (["CKPT=a.ckpt", "EXP=srkd"], "a.ckpt")]
)
def test_make_evaluates_nothing_by_default(given, model):
    root = Path(command_line.__file__).parents[1]
    told = subprocess.run(
        ["make", "--no-print-directory", "-n", "evaluate", *given],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shlex.split(told.stdout.splitlines()[-1])[1:] == [
        "-m",
        "experiments",
        "evaluate",
        "phantom",
        *model.split(),
    ]


def test_a_file_that_is_no_checkpoint_shows_before_the_data_are_read(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HC18_ROOT", str(tmp_path / "nowhere"))
    Path("best.ckpt").write_bytes(b"no model")
    monkeypatch.setattr(sys, "argv", ["experiments", "evaluate", "hc18", "best.ckpt"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert capsys.readouterr().err.startswith("error: best.ckpt: damaged")
    assert not (tmp_path / "outputs").exists()
