"""A setting's bad value on the training command line: one line with the argument, the reason and what would do."""

from __future__ import annotations

import sys

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
        ("--trainer=5", 'Unable to load config "5"'),
        (
            "--model.loss=losses.SRKDLos",
            "module 'losses' has no attribute 'SRKDLos'; did you mean losses.SRKDLoss?",
        ),
        (
            "--model.student=models.TimmEncode",
            "module 'models' has no attribute 'TimmEncode'; did you mean models.TimmEncoder?",
        ),
        ("--model.loss=mine.Loss", "No module named 'mine'; did you mean losses.Loss?"),
        ("--model.loss=SRKDLoz", "expected the path of a class or null"),
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
    assert answer(f"--model.loss={loss}") == "temperature: expected float"


@pytest.mark.parametrize("more", [[], ["--seed_everything=3"]])
@pytest.mark.parametrize("option", ["--data.batch_size", "--trainer.devices"])
def test_an_option_without_its_value_is_named(answer, option, more):
    assert answer(option, *more) == f"{option}: give a value, {option}=VALUE"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            ["--data.batch_size=0"],
            "data: batch_size 0 and evaluation_batch_size 64 must be positive, num_workers 2 at least 0",
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
    assert "pretrained is no setting of the chosen class" in line
    assert "did you mean pretrained?" not in line
