"""What a suite records of its runs, what it starts them with, and how it reads their exit statuses."""

import json
import signal

import pytest

from experiments.runs.run_folder import RUN_VARIABLE
from experiments.suites import suite_runs
from experiments.suites.suite_runs import FAILED, INTERRUPTED, SuiteRun, run_suite

URLS = "--data.urls=https://ada:secret@host/pairs.tar"


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
    assert SuiteRun("srkd", "phantom", 1).execute() == state


def test_the_folder_of_a_run_around_the_suite_is_not_passed_on(monkeypatch):
    found = []
    monkeypatch.setenv(RUN_VARIABLE, "another")
    monkeypatch.setenv("HC18_ROOT", "/data")
    monkeypatch.setattr(suite_runs, "run_children", lambda _, environment: found.append(environment) or [2])
    SuiteRun("srkd", "phantom", 1).execute()
    assert (RUN_VARIABLE in found[0], found[0]["HC18_ROOT"]) == (False, "/data")


def test_a_request_holds_no_secret_and_is_recognised_again():
    run = SuiteRun("srkd", "shards", 1, (URLS,))
    run.claim({"SHARDS": "a", "HC18_ROOT": "b"}, {})
    assert "secret" not in (run.folder / "request.json").read_text()
    run.refuse_another({"SHARDS": "a", "HC18_ROOT": "b"})
    for changed in ({"SHARDS": "x", "HC18_ROOT": "b"}, {"SHARDS": "a", "HC18_ROOT": "x"}, {"SHARDS": "a"}):
        with pytest.raises(ValueError, match="holds a run with other contents"):
            run.refuse_another(changed)


def test_a_request_records_weights_data_and_the_corpora_of_shards(monkeypatch):
    monkeypatch.setattr(suite_runs, "content_digests", lambda _: {"--teacher": "a"})
    monkeypatch.setattr(suite_runs, "corpus_digests", lambda *_: {"HC18_ROOT": "b"})
    monkeypatch.setattr(suite_runs, "shard_corpora", lambda *_: {"hc18": "all"})
    monkeypatch.setattr(suite_runs, "execute_all", lambda _: 1)
    assert run_suite("main", "phantom", [1, 2], ["--trainer.max_epochs=1"]) == 1
    request = json.loads((SuiteRun("no-kd", "phantom", 2).folder / "request.json").read_text())
    assert request == {
        "arguments": ["--trainer.max_epochs=1"], "digests": {"--teacher": "a", "HC18_ROOT": "b"},
        "trained_on": {"hc18": "all"}, "student": "",
    }  # fmt: skip
