"""Progress of a run: a bar in a terminal, lines elsewhere, and what of other libraries' messages stays."""

import logging
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only

from callbacks.tracking.console import LogProgress, TerminalProgress, progress_for
from experiments.runs.loggers import _is_wanted


def test_a_bar_in_a_terminal_and_lines_elsewhere(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert [type(callback) for callback in progress_for([], None)] == [LogProgress]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert [type(callback) for callback in progress_for([], None)] == [TerminalProgress]
    assert progress_for([], False) == []
    assert progress_for([TQDMProgressBar()], None) == []


def test_lines_are_printed_by_the_first_of_several_processes(monkeypatch, capsys):
    lines = LogProgress()
    lines.setup(SimpleNamespace(is_global_zero=False), None, "fit")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    lines.on_train_epoch_end(None, None)
    assert capsys.readouterr().out == ""


def test_a_bar_shows_no_more_metrics_than_fit_its_line(monkeypatch):
    all_metrics = {"v_num": "abc", "loss": 2.0, "train/off_diagonal_weight": -0.4, "val/composite": 0.3}
    monkeypatch.setattr(ProgressBar, "get_metrics", lambda *_: dict(all_metrics))
    assert TerminalProgress().get_metrics(None, None) == {"loss": 2.0, "val/composite": 0.3}


@pytest.mark.parametrize(
    ("path", "level", "wanted"),
    [
        ("/x/lightning/pytorch/trainer/setup.py", logging.INFO, False),
        ("/x/lightning/pytorch/trainer/setup.py", logging.WARNING, True),
        ("/x/lightning/pytorch/callbacks/early_stopping.py", logging.INFO, True),
        ("/x/models/encoders/open_clip_encoder.py", logging.INFO, True),
    ],
)
def test_of_lightning_the_warnings_and_the_callbacks_words_stay(path, level, wanted):
    assert _is_wanted(logging.LogRecord("x", level, path, 1, "", None, None)) is wanted
