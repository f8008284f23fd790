"""What the run behind a checkpoint says of itself: its data, its teacher, and the weights it started from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from experiments.recipes import data_class, preset_names
from export.model_card import RANDOM_START

RANDOM = "random:"


def run_config(checkpoint: str) -> dict[str, Any] | None:
    """Return the resolved configuration of the run that wrote a checkpoint; None where none lies beside it.

    Args:
        checkpoint: A checkpoint in ``checkpoints/`` of a run's folder, or beside a copy of the ``config.yaml``.

    Raises:
        ValueError: There is a ``config.yaml`` and it cannot be read.
    """
    if checkpoint.startswith(RANDOM):
        return None
    folder = Path(checkpoint).resolve().parent
    for path in (folder / "config.yaml", folder.parent / "config.yaml"):
        if path.is_file() and (path.parent == folder or folder.name == "checkpoints"):
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
            except yaml.YAMLError as error:
                raise ValueError(f"{path}: no YAML ({' '.join(str(error).split())[:120]})") from error
            if isinstance(content, dict) and isinstance(content.get("data"), dict):
                return content
    return None


def preset_of(config: dict[str, Any] | None) -> str | None:
    """Return the data preset whose corpus a run was trained on; None when it cannot be told."""
    kind = None if config is None else config["data"].get("class_path")
    return next((name for name in preset_names() if data_class(name) == kind), None)


def training_facts(config: dict[str, Any] | None) -> dict[str, str]:
    """Say in words what a student was made from, as far as its run recorded it.

    Returns:
        ``data``, ``corpus`` (its preset), ``teacher``, ``loss`` and ``start`` (the weights that training began with),
        as far as they are in the record; empty without one.
    """
    if config is None:
        return {}
    model = config.get("model") or {}
    facts = {"data": _tower(config["data"], ("root", "urls", "planes_root", "hc18_root"))}
    preset = preset_of(config)
    if preset is not None:
        facts["corpus"] = preset
    if isinstance(model.get("loss"), dict):
        facts["loss"] = str(model["loss"].get("class_path"))
    teacher, student = model.get("teacher"), model.get("student")
    facts["teacher"] = "none" if not teacher else _tower(teacher, ("name", "weights", "path"))
    if isinstance(student, dict):
        arguments = student.get("init_args") or {}
        given = [arguments.get(key) for key in ("weights", "path", "checkpoint", "trunk_weights")]
        found = [str(value) for value in given if value]
        facts["start"] = ", ".join(found) or RANDOM_START
    return facts


def _tower(settings: dict[str, Any], keys: tuple[str, ...]) -> str:
    arguments = settings.get("init_args") or {}
    named = [f"{key} {arguments[key]}" for key in keys if arguments.get(key)]
    return ", ".join([str(settings.get("class_path")), *named])
