"""What commands write of their own arguments holds no token: requests, journals, and the command that resumes."""

import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from jsonargparse import Namespace

from datamodules.redaction import MARK
from experiments.runs.input_digests import corpus_digests
from experiments.runs.resuming import resume_command
from experiments.runs.run_record import patients
from experiments.suites.suite_runs import REQUEST, SuiteRun
from experiments.sweep import wandb_runner
from experiments.sweep.local_study import LocalStudy
from experiments.sweep.sweep_file import read_sweep, sweep_path
from tests.experiments.suites.test_run_requests import begin

TOKEN = "t0pS3cret"


def option(token):
    return f"--data.urls=https://host/pairs-{{000..001}}.tar?signature={token}"


def test_a_suite_goes_on_with_another_signature_and_writes_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = SuiteRun("srkd", "shards", 1, (option(TOKEN), "--trainer.max_epochs=1"))
    run.claim({"SHARDS": "a"}, {})
    assert TOKEN not in (run.folder / REQUEST).read_text()
    assert json.loads((run.folder / REQUEST).read_text())["arguments"] == [
        option(MARK).replace("signature=", ""),
        run.arguments[1],
    ]
    assert any(TOKEN in word for word in run.command()), "training itself gets the whole URL"
    begin(run)
    SuiteRun("srkd", "shards", 1, (option("n3wer"), "--trainer.max_epochs=1")).refuse_another({"SHARDS": "a"})
    other = SuiteRun("srkd", "shards", 1, ("--data.urls=https://host/other.tar", "--trainer.max_epochs=1"))
    with pytest.raises(ValueError, match="other contents of SHARDS"):
        other.refuse_another({"SHARDS": "b"})


def test_shards_are_the_same_under_another_signature(tmp_path):
    apart = ["--data.planes_root=null", "--data.hc18_root=null"]
    names = [f"pairs-{number:03d}.tar" for number in range(2)]
    manifest = {"shards": [{"name": name, "samples": 1, "bytes": 10} for name in names]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    with server:
        old, new = (
            corpus_digests("shards", [option(token).replace("https://host", place), *apart])
            for token in ("old", "new")
        )
        server.shutdown()
    assert old == new
    assert set(old) == {"SHARDS"}


def test_a_checkpoint_records_no_token_of_a_data_module_of_ones_own():
    old, new = (
        patients(
            Namespace(class_path="mine.Data", init_args=Namespace(place=option(token).partition("=")[2]))
        )
        for token in (TOKEN, "n3wer")
    )
    assert MARK in str(old)
    assert TOKEN not in str(old)
    assert old == new


def test_the_command_that_resumes_names_the_place_alone(monkeypatch):
    monkeypatch.setenv("SHARDS", option(TOKEN).partition("=")[2])
    said = resume_command(["train", "srkd", "shards", option(TOKEN)], Path("last.ckpt"))
    assert TOKEN not in said
    assert said.count(MARK) == 2


def test_the_journal_of_a_local_sweep_holds_no_token_and_the_sweep_goes_on_with_another(tmp_path):
    sweep = read_sweep(sweep_path("decay"))
    for token in (TOKEN, "n3wer"):
        LocalStudy.open(sweep, tmp_path, [option(token)], seed=0)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert MARK in (tmp_path / "journal.log").read_text()
    assert [path for path in files if TOKEN in path.read_text()] == []


def test_wandb_gets_no_sweep_whose_command_holds_a_token(monkeypatch):
    monkeypatch.setattr(wandb_runner.wandb, "sweep", lambda *_, **__: pytest.fail("it was sent"))
    with pytest.raises(
        ValueError, match=r"^--data\.urls=https://host[^\n]*WANDB_MODE=offline[^\n]*$"
    ) as refusal:
        wandb_runner.create_sweep(read_sweep(sweep_path("decay")), [option(TOKEN)])
    assert TOKEN not in str(refusal.value)
