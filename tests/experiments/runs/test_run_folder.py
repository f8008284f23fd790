"""Metrics of a run that was interrupted several times, and folders that hold a run already."""

import multiprocessing
import time

import pandas as pd
import pytest

from experiments.runs.run_folder import (
    join_metrics,
    keep_metrics,
    keep_results,
    lock_folder,
    read_metrics,
    refuse_used,
)


def log(folder, *rows):
    """Log rows of step and loss as Lightning does after every start: in a new ``metrics.csv``."""
    keep_metrics(folder)
    pd.DataFrame(rows, columns=["step", "train/loss"]).to_csv(folder / "metrics.csv", index=False)


def test_steps_that_a_resumed_run_repeats_count_once_as_it_repeats_them(tmp_path):
    log(tmp_path, (199, 1.0), (399, 1.1), (599, 1.2))
    log(tmp_path, (399, 2.1), (599, 2.2), (799, 2.3))
    log(tmp_path, (599, 3.2), (799, 3.3))
    expected = [(199, 1.0), (399, 2.1), (599, 3.2), (799, 3.3)]
    assert [*read_metrics(tmp_path).itertuples(index=False, name=None)] == expected
    join_metrics(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert [*read_metrics(tmp_path).itertuples(index=False, name=None)] == expected


def test_more_than_ten_parts_are_joined_in_order(tmp_path):
    for part in range(12):
        log(tmp_path, (part, float(part)))
    assert read_metrics(tmp_path)["step"].tolist() == [*range(12)]


def test_results_of_a_run_that_goes_on_are_kept_aside_and_its_report_removed(tmp_path):
    for name in ("results.json", "evidence.json", "report.html"):
        (tmp_path / name).write_text(name)
    keep_results(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results-000.json"]
    keep_results(tmp_path)  # interrupted before it had results again
    assert [path.read_text() for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("file", ["results.json", "checkpoints/last.ckpt"])
def test_a_folder_that_holds_a_run_is_refused(tmp_path, file):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    refuse_used(tmp_path)
    (tmp_path / file).touch()
    with pytest.raises(
        ValueError, match="already holds a run; choose another --run=NAME, or resume this one"
    ):
        refuse_used(tmp_path)


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path):
    def hold():
        kept = lock_folder(tmp_path)
        held.set()
        time.sleep(60)
        kept.release()

    context = multiprocessing.get_context("fork")
    held = context.Event()
    other = context.Process(target=hold)
    other.start()
    assert held.wait(60)
    with pytest.raises(ValueError, match="another process is training this run; wait, or choose another"):
        lock_folder(tmp_path)
    other.kill()
    other.join()
    lock_folder(tmp_path).release()  # a killed process holds nothing
