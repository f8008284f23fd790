"""Long evaluations say how far they are; short ones are silent."""

from types import SimpleNamespace

import pytest
from lightning import Trainer

from callbacks.tracking import console
from callbacks.tracking.console import progress_bar
from datamodules import progress as module
from tests.callbacks.tiny import TinyData, TinyModule


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


def test_a_bar_reads_the_loss_of_a_few_steps_only(tmp_path, monkeypatch):
    """Reading it waits for a GPU; the last batch is always shown."""
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=iter(range(1000)).__next__))
    monkeypatch.setattr(console, "REDRAW_SECONDS", 5)
    shown = []

    class Bar(console.TerminalProgress):
        def get_metrics(self, trainer, module):
            shown.append(trainer.fit_loop.batch_idx)
            return {}

    Trainer(
        default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", logger=False, callbacks=[Bar()],
        enable_checkpointing=False, enable_model_summary=False, limit_train_batches=3, limit_val_batches=0,
    ).fit(TinyModule(), TinyData())  # fmt: skip
    assert shown[:1] == [2], "the loss of two steps is not read"
