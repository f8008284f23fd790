"""What a suite records of its runs, what it starts them with, and how it reads their exit statuses."""

import json
import signal
import sys

import pytest

from experiments.runs.run_folder import RUN_VARIABLE
from experiments.suites import suite_runs
from experiments.suites.suite_runs import (
    FAILED,
    INTERRUPTED,
    SuiteRun,
    execute,
    execute_all,
    run_suite,
)

URLS = "--data.urls=https://ada:secret@host/pairs.tar"


def begin(run):
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "last.ckpt").touch()


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (2, FAILED), (1, FAILED), (-signal.SIGKILL, FAILED), (130, INTERRUPTED), (143, INTERRUPTED),
        (-signal.SIGINT, INTERRUPTED), (-signal.SIGTERM, INTERRUPTED),
    ],
)  # fmt: skip
def test_a_run_that_a_signal_ended_is_interrupted_not_failed(monkeypatch, status, state):
    monkeypatch.setattr(suite_runs, "run_children", lambda *_: [status])
    assert execute([SuiteRun("srkd", "phantom", 1)]) == [state]


def test_the_folder_of_a_run_around_the_suite_is_not_passed_on(monkeypatch):
    found = []
    monkeypatch.setenv(RUN_VARIABLE, "another")
    monkeypatch.setenv("HC18_ROOT", "/data")
    monkeypatch.setattr(
        suite_runs, "run_children", lambda _, environment, __: found.append(environment) or [2]
    )
    execute([SuiteRun("srkd", "phantom", 1)])
    assert (RUN_VARIABLE in found[0], found[0]["HC18_ROOT"]) == (False, "/data")


def test_several_runs_at_a_time_share_the_cores_and_print_into_their_folders(monkeypatch, capfd):
    monkeypatch.setattr("datamodules.cores.usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = (
        "import os, pathlib, sys, time; print(os.environ['OMP_NUM_THREADS'], flush=True); "
        "here = pathlib.Path(sys.argv[1]); (here / 'started').touch(); "
        "started = lambda: len([*here.parent.glob('*/started')]); "
        "[time.sleep(0.01) for _ in range(6000) if started() < 2]; "
        "started() < 2 and sys.exit('alone'); (here / 'results.json').write_text('{}')"
    )
    runs = [SuiteRun("srkd", "phantom", seed) for seed in (1, 2, 3)]
    monkeypatch.setattr(SuiteRun, "command", lambda run: [sys.executable, "-c", code, str(run.folder)])
    assert execute_all(runs, jobs=2) == 0
    assert [(run.folder / "output.txt").read_text() for run in runs] == ["3\n"] * 3
    assert capfd.readouterr().out.count("/output.txt") == 3
    assert execute_all(runs, jobs=2) == 0  # all finished
    assert [(run.folder / "output.txt").read_text() for run in runs] == ["3\n"] * 3


def test_a_request_holds_no_secret_and_is_recognised_again():
    run = SuiteRun("srkd", "shards", 1, (URLS,))
    run.claim({"SHARDS": "a", "HC18_ROOT": "b"}, {})
    assert "secret" not in (run.folder / "request.json").read_text()
    begin(run)
    run.refuse_another({"SHARDS": "a", "HC18_ROOT": "b"})
    for changed in (
        {"SHARDS": "x", "HC18_ROOT": "b"},
        {"SHARDS": "a", "HC18_ROOT": "x"},
        {"SHARDS": "a"},
        {"SHARDS": "a", "HC18_ROOT": "b", "--teacher": "c"},
    ):
        with pytest.raises(ValueError, match="holds a run with other contents"):
            run.refuse_another(changed)


def test_files_may_move_between_the_calls_of_a_suite():
    before = SuiteRun("srkd", "phantom", 1, ("--teacher=/old/t.ckpt", "--trainer.max_epochs=2"))
    before.claim({"--teacher": "a"}, {})
    begin(before)
    moved = ("--teacher=/new/t.ckpt", "--trainer.max_epochs=2", "--data.num_workers=4")
    SuiteRun("srkd", "phantom", 1, moved).refuse_another({"--teacher": "a"})
    with pytest.raises(ValueError, match="other arguments"):
        SuiteRun("srkd", "phantom", 1, moved[:1]).refuse_another({"--teacher": "a"})


def test_the_request_of_a_run_that_never_began_is_replaced():
    run = SuiteRun("srkd", "hc18", 1)
    run.claim({}, {})  # its teacher was still to be trained
    run.refuse_another({"--teacher": "a"})
    run.claim({"--teacher": "a"}, {})
    assert json.loads((run.folder / "request.json").read_text())["digests"] == {"--teacher": "a"}


@pytest.mark.parametrize("option", ["--teacher=t.ckpt", "--model.student=models.TimmEncoder"])
def test_a_suite_of_students_has_its_own_towers(option):
    with pytest.raises(ValueError, match=f"^{option}: SUITE=capacity has towers of its own; leave it out"):
        run_suite("capacity", "phantom", [1], [option])


def test_a_request_records_weights_data_and_the_corpora_of_shards(monkeypatch):
    monkeypatch.setattr(suite_runs, "content_digests", lambda _: {"--teacher": "a"})
    monkeypatch.setattr(suite_runs, "corpus_digests", lambda *_: {"HC18_ROOT": "b"})
    monkeypatch.setattr(suite_runs, "shard_corpora", lambda *_: {"hc18": "all"})
    monkeypatch.setattr(suite_runs, "execute_all", lambda *_: 1)
    assert run_suite("main", "phantom", [1, 2], ["--trainer.max_epochs=1"]) == 1
    request = json.loads((SuiteRun("no-kd", "phantom", 2).folder / "request.json").read_text())
    assert request == {
        "arguments": ["--trainer.max_epochs=1"], "digests": {"--teacher": "a", "HC18_ROOT": "b"},
        "trained_on": {"hc18": "all"}, "student": "",
    }  # fmt: skip
