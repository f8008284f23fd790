"""Long evaluations say how far they are; short ones are silent."""

import pytest

from callbacks.tracking import console
from callbacks.tracking.console import progress_bar
from datamodules import progress as module


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)


def test_a_bar_states_what_how_far_and_how_long(at_once, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(module, "TERMINAL_SECONDS", 0.0)
    with progress_bar("age prompts", " prompts") as progress:
        for done in (100, 200, 350):
            progress(done, 350)
    shown = capsys.readouterr().err
    assert "age prompts" in shown
    assert "/350 [" in shown
    assert "<" in shown  # elapsed < remaining


def test_a_log_file_gets_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    with progress_bar("age prompts", " prompts") as progress:
        progress(100, 350)
        progress(350, 350)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("age prompts: 100 of 350 prompts, ")
    assert last == "age prompts: 350 of 350 prompts, 0 s left"


def test_a_short_evaluation_shows_nothing(capsys):
    with progress_bar("age prompts", " prompts") as progress:
        progress(1, 2)
        progress(2, 2)
    assert capsys.readouterr().err == ""


def test_other_processes_show_nothing(at_once, capsys, monkeypatch):
    monkeypatch.setattr(console.rank_zero_only, "rank", 1, raising=False)
    with progress_bar("age prompts", " prompts") as progress:
        progress(1, 2)
    assert capsys.readouterr().err == ""
