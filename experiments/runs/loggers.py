"""A run's loggers: where they write, which W&B run they resume; other libraries' messages silenced."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate
from typing import Any

import wandb
import yaml
from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger
from wandb.sdk import wandb_setup

from callbacks import run_id_of
from callbacks.tracking.wandb_run import may_upload_images
from datamodules.redaction import redacted
from experiments.plain_errors import RUN_FOLDER, PlainErrorParser
from experiments.process import first_process
from experiments.recipe_files import BASE
from experiments.runs.run_folder import continues
from experiments.runs.wandb_access import (
    check_server,
    sync_command,
    wandb_mode,
    why_not_online,
)

# Packages of which a Lightning logger needs one; the project does not install them.
PACKAGES = {
    "CometLogger": ("comet_ml",),
    "MLFlowLogger": ("mlflow", "mlflow_skinny"),
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
}
# Warnings about what is intended, or about Lightning and torch themselves.
EXPECTED_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # the frozen teacher
    r"Experiment logs directory .* exists and is not empty",  # config.yaml is written before the metrics
    r"Checkpoint directory .* exists and is not empty",  # a resumed run continues in its folder
    r"You have overridden `on_before_batch_transfer` in `LightningModule`",  # as meant: the towers know what to cut
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"It is recommended to use `self\.log\(.*sync_dist=True",  # all processes log the same, or the first one alone
    r"torch\.distributed\.nn\.functional\.all_gather is deprecated",  # its successor is private
)
WANDB_QUIET = {"WANDB_QUIET": "true", "WANDB_SHOW_INFO": "false", "WANDB_SHOW_WARNINGS": "false"}


def settled_loggers(config: Namespace, folder: Path, resumed: bool) -> list[Namespace]:
    """Return the loggers' configurations: writing into the run's folder, resuming W&B's run, offline without a key.

    Args:
        config: The resolved configuration of the run; not changed, since a repeat of the run must not write into this
            folder. ``trainer.logger`` is one logger, a list, False for none, or True for those of ``base.yaml``.
        folder: The run's folder.
        resumed: Whether the run resumes from the configuration's checkpoint.
    """
    return [_settled(logger.clone(), config, folder, resumed) for logger in _as_list(config.trainer.logger)]


def check_loggers(config: Namespace) -> None:
    """Check that W&B can be reached if a logger of the run needs it."""
    settings = [
        logger.get("init_args") or Namespace()
        for logger in _as_list(config.trainer.logger)
        if logger.class_path.endswith("WandbLogger")
    ]
    online = any(not s.get("offline") and s.get("mode") in (None, "online") for s in settings)
    if online and wandb_mode() == "online":
        check_server()


def _as_list(asked: Any) -> list[Namespace]:
    """Return ``trainer.logger`` as a list; True and None mean the loggers of ``base.yaml``."""
    if asked is True or asked is None:
        parser = PlainErrorParser()
        parser.add_argument("--logger", type=list[Logger])
        recipe = yaml.safe_load(BASE.read_text(encoding="utf-8"))
        asked = parser.parse_object({"logger": recipe["trainer"]["logger"]}).logger
    loggers = [asked] if isinstance(asked, Namespace) else list(asked or [])
    for logger in loggers:
        name = logger.class_path.rpartition(".")[2]
        packages = PACKAGES.get(name, ())
        if packages and not any(find_spec(package) for package in packages):
            raise ValueError(
                f"trainer.logger: {name} needs the package {packages[0]}, which is not installed; "
                f"make add PACKAGE={packages[0]}"
            )
    return loggers


def _settled(logger: Namespace, config: Namespace, folder: Path, resumed: bool) -> Namespace:
    arguments = logger.get("init_args") or Namespace()
    checkpoint = config.get("ckpt_path")
    mlflow = logger.class_path.endswith("MLFlowLogger")
    if "save_dir" in arguments and arguments.save_dir in (None, RUN_FOLDER):
        arguments.save_dir = str(folder / "mlruns" if mlflow else folder)
    if mlflow:
        # The store of plain files, which mlflow-skinny has without a database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        arguments.run_name = arguments.get("run_name") or f"{config.experiment}/{folder.name}"
    if logger.class_path.endswith("WandbLogger"):
        arguments.name = arguments.get("name") or f"{config.experiment}/{folder.name}"
        if resumed and checkpoint and continues(folder, checkpoint):
            arguments.id = arguments.get("id") or run_id_of(checkpoint)
        settings = _given_settings(arguments.get("settings"))
        data = (
            None if (config.data.get("init_args") or {}).get("benchmarks") else locate(config.data.class_path)
        )
        if not may_upload_images(config.media.upload_images, data):
            settings["console"] = "off"  # the console names files and patients
        if redacted(sys.argv) != sys.argv:
            settings["x_disable_meta"] = True  # the metadata holds the command line
        if wandb_mode() == "offline":
            # Lightning's `offline` sets an environment variable that W&B may have read already.
            arguments.mode = "offline"
            settings.setdefault("silent", True)  # replaced by the line below
            if first_process():
                later = sync_command(f"{folder}/wandb/offline-run-*")
                print(f"W&B: {why_not_online()}, so logging offline; later: {later}")
        # An object: jsonargparse would add defaults to a dictionary, which override W&B's variables.
        arguments.settings = wandb.Settings(**settings)
    return logger


def _given_settings(parsed: Namespace | None) -> dict[str, Any]:
    """Return the W&B settings that the user gave, without the defaults that jsonargparse has added to them."""
    parser = PlainErrorParser()
    parser.add_argument("--settings", type=wandb.Settings)
    defaults = parser.parse_object({"settings": {}}).settings
    return {name: value for name, value in (parsed or Namespace()).items() if value != defaults[name]}


def quieten_libraries() -> None:
    """Silence banners, tips and device lists; ``WANDB_SHOW_INFO=true WANDB_QUIET=false`` shows W&B's again."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # one line, no source code
    for variable, value in WANDB_QUIET.items():
        os.environ.setdefault(variable, value)
    _ = wandb_setup.singleton().settings  # reads the variables before a logger's arguments are checked
    # On a full disk W&B's threads report every record that they cannot write; the run's own error is enough.
    logging.raiseExceptions = False
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Keep warnings, our own messages, those of callbacks, which a user has turned on, and of processes that ended."""
    folders = Path(record.pathname).parts
    if record.module == "subprocess_script" and "terminated with code" in record.getMessage():
        return True
    return record.levelno > logging.INFO or "lightning" not in folders or "callbacks" in folders
