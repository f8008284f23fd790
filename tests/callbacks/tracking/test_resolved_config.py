"""The whole configuration reaches W&B, nested, and a second run in the same folder does not die."""

from pathlib import Path

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from callbacks import SaveResolvedConfig
from callbacks.tracking.wandb_run import active_run
from tests.callbacks.tiny import TinyData, TinyModule
from tests.callbacks.wandb_log import WandbLog


@pytest.fixture(autouse=True, scope="module")
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        yield


@pytest.fixture(scope="module")
def first(offline, tmp_path_factory):
    """The folder of a run, and what that run left in W&B."""
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder, folder / "first")


def run(folder, wandb_folder):
    logger = {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"project": "test", "save_dir": str(wandb_folder), "offline": True},
    }
    csv_logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(folder), "name": "", "version": ""},
    }
    cli = LightningCLI(
        TinyModule,
        TinyData,
        save_config_callback=SaveResolvedConfig,
        save_config_kwargs={"save_to_log_dir": False},
        seed_everything_default=3,
        trainer_defaults={
            "accelerator": "cpu",
            "default_root_dir": str(folder),
            "max_epochs": 1,
            "logger": [csv_logger, logger],
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 0,
        },
        args=["fit", "--model.scores=[0.5]", "--trainer.gradient_clip_val=0.25"],
    )
    cli.trainer.loggers[1].experiment.finish()
    return WandbLog.only_one(wandb_folder).config


def test_the_resolved_config_is_nested_in_wandb_and_a_second_run_lives(first):
    folder, config = first
    assert config["seed_everything"] == 3
    assert config["model"] == {"scores": [0.5], "teacher": True}
    assert config["trainer"]["gradient_clip_val"] == 0.25
    assert config["trainer"]["logger"][1]["init_args"]["project"] == "test"
    assert "fit" not in config
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert {key: config[key] for key in saved} == saved

    assert run(folder, folder / "second")["model"] == config["model"]


def test_a_full_disk_leaves_the_former_config(first, monkeypatch):
    folder = first[0]
    before = (folder / "config.yaml").read_text()

    def half(path, text, **_):
        path.write_bytes(text[:9].encode())
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="disk full"):
        run(folder, folder / "full")
    assert (folder / "config.yaml").read_text() == before
    assert not [path for path in folder.iterdir() if "partial" in path.name]


def test_other_ranks_never_touch_the_logger():
    class Untouchable:
        @property
        def loggers(self):
            raise AssertionError("only the first rank talks to W&B")

        is_global_zero = False

    assert active_run(Untouchable()) is None
