"""What a finished run hands to W&B, and whether W&B can be reached at all."""

import json
import re
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from callbacks import EvaluationMedia, active_run
from callbacks.tracking.wandb_run import uploads_images
from experiments.runs import wandb_access
from tests.callbacks.wandb_log import WandbLog

RECORD = {
    "experiment": "srkd",
    "data": "phantom",
    "seed": 3,
    "git_commit": "abc",
    "metrics": {"student/planes/f1": 0.91, "teacher/planes/f1": 0.95},
    "selection": {"monitor": "val/composite", "score": 0.8, "checkpoint": "best.ckpt"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "plots").mkdir()
    (tmp_path / "checkpoints").mkdir()
    for name in ("training", "student-planes", "geometry-cka"):
        Image.new("RGB", (8, 8)).save(tmp_path / "plots" / f"{name}.png")
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    return tmp_path


def publish(folder):
    # W&B may have read its environment before the test changed it.
    logger = WandbLogger(project="test", save_dir=folder, offline=True, mode="offline")
    media = EvaluationMedia(upload_images=True)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[logger], global_step=40, callbacks=[media])
    wandb_access.publish(trainer, folder, RECORD)
    logger.experiment.finish()
    return WandbLog.only_one(folder)


def test_results_and_best_checkpoint_are_versioned_artifacts(folder):
    log = publish(folder)
    artifacts = {
        record.artifact.type: record.artifact for record in log.records if record.HasField("artifact")
    }
    assert set(artifacts) == {"results", "model"}
    for kind, artifact in artifacts.items():
        assert artifact.name == f"{kind}-{log.run_id}"
        assert set(artifact.aliases) == {"latest", "best"}
    (content,) = artifacts["model"].manifest.contents
    assert content.local_path == str(folder / "checkpoints" / "best.ckpt"), "no second copy of the weights"
    assert json.loads(artifacts["model"].metadata)["score"] == 0.8


def test_summary_and_plots_are_sent_once(folder):
    log = publish(folder)
    (row,) = [row for row in log.history if any(key.startswith("plots/") for key in row)]
    assert row["trainer/global_step"] == 40
    assert not re.search("student-planes|geometry-cka", str(row.keys())), "the evaluations have sent them"
    summary = {}
    for record in log.records:
        for item in record.summary.update:
            summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert summary["student/planes/f1"] == 0.91


def test_without_a_wandb_logger_nothing_happens(tmp_path):
    trainer = SimpleNamespace(
        is_global_zero=True, loggers=[], callbacks=[], datamodule=object(), global_step=0
    )
    wandb_access.publish(trainer, tmp_path, RECORD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "simulated", "uploads"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_images_of_simulators_alone_are_uploaded_unless_it_is_said(asked, simulated, uploads):
    media, data = EvaluationMedia(upload_images=asked), SimpleNamespace(simulated=simulated)
    assert uploads_images(SimpleNamespace(callbacks=[media], datamodule=data)) == uploads
    assert not uploads_images(SimpleNamespace(callbacks=[], datamodule=object())), "unknown data are private"


def test_older_versions_are_dropped_and_the_newest_kept(monkeypatch):
    class Version:
        def __init__(self, number):
            self.version = f"v{number}"
            self.deleted = None

        def delete(self, delete_aliases):
            self.deleted = delete_aliases

    versions = [Version(number) for number in range(3)]
    asked = []

    class Api:
        def artifacts(self, kind, name):
            asked.append((kind, name))
            return versions

    monkeypatch.setattr(wandb_access.wandb, "Api", Api)
    newest = SimpleNamespace(
        entity="lab", project="sonodistill", name="model-abc:v2", type="model", version="v2"
    )
    wandb_access.drop_older_versions(newest)
    assert asked == [("model", "lab/sonodistill/model-abc")]
    assert [version.deleted for version in versions] == [True, True, None]


@pytest.mark.parametrize("offline", [True, False])
def test_older_versions_are_dropped_once_the_newest_is_on_the_server(monkeypatch, offline):
    done = []
    logged = SimpleNamespace(wait=lambda: done.append("wait"))
    run = SimpleNamespace(offline=offline, log_artifact=lambda *_, **__: logged)
    monkeypatch.setattr(wandb_access, "drop_older_versions", lambda newest: done.append(newest))
    wandb_access._log(run, object())
    assert done == ([] if offline else ["wait", logged])


@pytest.mark.parametrize(
    ("mode", "expected"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")]
)
def test_a_mode_without_network_is_kept_whatever_the_key(mode, expected, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert wandb_access.wandb_mode() == expected


def test_without_credentials_it_is_offline_and_with_a_key_online(monkeypatch):
    answers = [False, True]
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def login(prompt, verify):
        assert not prompt, "never ask: the run may have no terminal"
        assert not verify, "never call the network before the run does"
        return answers.pop(0)

    monkeypatch.setattr(wandb_access.wandb, "login", login)
    assert [wandb_access.wandb_mode(), wandb_access.wandb_mode()] == ["offline", "online"]


def test_a_disabled_run_is_no_run(tmp_path, monkeypatch):
    """With WANDB_MODE=disabled, artifacts and the like are dummies that answer nothing."""
    logger = WandbLogger(project="test", save_dir=tmp_path, offline=True)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[logger])
    monkeypatch.setattr(WandbLogger, "experiment", SimpleNamespace(disabled=True))
    assert active_run(trainer) is None
    monkeypatch.setattr(WandbLogger, "experiment", SimpleNamespace(disabled=False))
    assert active_run(trainer) is logger.experiment
