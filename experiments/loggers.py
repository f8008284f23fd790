"""A run's loggers: which there are, where they write, and which W&B run they go on with."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import wandb
import yaml
from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger

from callbacks import run_id_of
from datamodules.redaction import redacted
from experiments.plain_errors import RUN_FOLDER, PlainErrorParser
from experiments.recipes import BASE
from experiments.wandb_access import check_server, first_process, sync_command, wandb_mode, why_not_online

# What Lightning's loggers import, any one of them; none of these comes with the project.
PACKAGES = {
    "CometLogger": ("comet_ml",),
    "MLFlowLogger": ("mlflow", "mlflow_skinny"),
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
}


def settled_loggers(config: Namespace, folder: Path, resumed: bool) -> list[Namespace]:
    """Point every logger at the run's folder; continue a resumed W&B run; go offline when there is no key.

    Args:
        config: The resolved configuration of the run, which stays as it is: the folder in it would make the repeat
            of the run write there, too. ``trainer.logger`` is a logger, several, False for none, or True for those
            of ``base.yaml``.
        folder: The run's folder.
        resumed: Whether the configuration's checkpoint is what the run goes on from.

    Returns:
        The loggers' configurations, ready to be instantiated; none without loggers.
    """
    return [_settled(logger.clone(), config, folder, resumed) for logger in _as_list(config.trainer.logger)]


def check_loggers(config: Namespace) -> None:
    """Make sure that W&B can be reached where a logger of the run is to write there.

    Raises:
        ConnectionError: It cannot.
    """
    settings = [
        logger.get("init_args") or Namespace()
        for logger in _as_list(config.trainer.logger)
        if logger.class_path.endswith("WandbLogger")
    ]
    online = any(not s.get("offline") and s.get("mode") in (None, "online") for s in settings)
    if online and wandb_mode() == "online":
        check_server()


def _as_list(asked: Any) -> list[Namespace]:
    """Return one logger, several or none as a list; True and None are what Lightning calls its default.

    Raises:
        ValueError: A logger's package is not installed.
    """
    loggers = _listed(asked)
    for logger in loggers:
        name = logger.class_path.rpartition(".")[2]
        packages = PACKAGES.get(name, ())
        if packages and not any(find_spec(package) for package in packages):
            raise ValueError(
                f"trainer.logger: {name} needs the package {packages[0]}, which is not installed; "
                f"uv pip install --python .venv {packages[0]}"
            )
    return loggers


def _listed(asked: Any) -> list[Namespace]:
    if asked is True or asked is None:
        parser = PlainErrorParser()
        parser.add_argument("--logger", type=list[Logger])
        recipe = yaml.safe_load(BASE.read_text(encoding="utf-8"))
        return list(parser.parse_object({"logger": recipe["trainer"]["logger"]}).logger)
    if isinstance(asked, Namespace):
        return [asked]
    return list(asked or [])


def _uploads_images(config: Namespace) -> bool:
    """Say what `callbacks.wandb_run.uploads_images` will, before there is a trainer."""
    asked = config.media.upload_images
    if asked is not None:
        return bool(asked)
    module, _, name = config.data.class_path.rpartition(".")
    return bool(getattr(getattr(import_module(module), name), "simulated", False))


def _settled(logger: Namespace, config: Namespace, folder: Path, resumed: bool) -> Namespace:
    arguments = logger.get("init_args") or Namespace()
    checkpoint = config.get("ckpt_path")
    if "save_dir" in arguments and arguments.save_dir in (None, RUN_FOLDER):
        arguments.save_dir = str(folder)
    if logger.class_path.endswith("WandbLogger"):
        arguments.name = arguments.get("name") or f"{config.experiment}/{folder.name}"
        if resumed and checkpoint and Path(checkpoint).is_file():
            arguments.id = arguments.get("id") or run_id_of(checkpoint)
        given = arguments.get("settings")
        settings: dict[str, Any] = {}
        if not _uploads_images(config):
            settings["console"] = "off"  # which names files and patients
        if redacted(sys.argv) != sys.argv:
            settings["x_disable_meta"] = True  # which holds the command line
        if wandb_mode() == "offline":
            # Lightning's own `offline` changes W&B's environment, which W&B may have read before.
            arguments.mode = "offline"
            if not given:
                settings["silent"] = True  # the line below says it all
            if first_process():
                later = sync_command(f"{folder}/wandb/offline-run-*")
                print(f"W&B: {why_not_online()}, so logging offline; later: {later}")
        if given:
            given.update(settings)
        elif (
            settings
        ):  # as an object: jsonargparse would fill a dictionary up, with defaults in place of W&B's variables
            arguments.settings = wandb.Settings(**settings)
    return logger
