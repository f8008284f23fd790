"""What a checkpoint records of its run: the data that it was trained on, and the file of its teacher."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from datamodules.phantom import SIMULATOR_VERSION
from datamodules.redaction import redacted
from experiments.corpus_digest import place_digests
from experiments.origin import preset_of
from experiments.quick import CAUTION
from experiments.recipes import TEACHER_EXPERIMENT
from experiments.shorthand import FOLDERS, TEACHER
from export.provenance import sha256
from lightning_modules.distillation import RUN_RECORD

# Data settings that decide which patients are trained on. `seed` is not among them: runs with several seeds share
# their test patients, and so their teacher.
SPLIT = ("corpus", "split_seed", "val_share", "test_share", "hc18_test_share")
LOADER = "models.from_checkpoint"
REMEDY = "TEACHER=path/to/checkpoint compares with one"


def patients(data: Namespace) -> dict[str, Any]:
    """Return what decides which patients a run trains on, its corpora by content: folders move.

    Raises:
        FileNotFoundError: A corpus is not where the settings say.
    """
    settings = (data.get("init_args") or Namespace()).as_dict()
    preset = preset_of({"data": {"class_path": data.class_path}})
    chosen = settings if preset is None else {name: settings[name] for name in SPLIT if name in settings}
    folders = {variable: settings.get(name) for name, variable in FOLDERS.get(str(preset), {}).items()}
    found = {
        "class_path": data.class_path,
        "simulator": SIMULATOR_VERSION,
        "settings": chosen,
        "corpora": place_digests({variable: str(place) for variable, place in folders.items() if place}),
    }
    return dict(redacted(json.loads(json.dumps(found, default=str))))


def make_record(config: Namespace) -> dict[str, Any]:
    """Return the record of a run: ``data`` (see `patients`), ``teacher`` (its class and file) and ``quick``.

    Args:
        config: The resolved configuration, the paths of its towers settled.

    Raises:
        FileNotFoundError: A corpus is not where the settings say.
    """
    teacher, path = config.model.get("teacher"), _file(config.model.get("teacher"))
    digest = sha256(Path(path)) if path and Path(path).exists() else None
    return {
        "data": patients(config.data),
        "teacher": teacher and {"class_path": teacher.class_path, "path": path, "sha256": digest},
        "quick": bool(config.quick),
    }


def read_record(path: str | None) -> dict[str, Any]:
    """Return the record in one of our checkpoints; empty for any other file or folder."""
    if path is None or not Path(path).is_file() or not zipfile.is_zipfile(path):
        return {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # no checkpoint of ours; whoever loads its weights says what is wrong with it
        return {}
    record = content.get(RUN_RECORD) if isinstance(content, dict) else None
    return record if isinstance(record, dict) else {}


def teacher_arguments(model: str, arguments: Sequence[str]) -> list[str]:
    """Return the option that has an evaluation compare with the teacher of the checkpoint's own run.

    Where that teacher is not at hand the evaluation has none, and one line says why.

    Args:
        model: The checkpoint, or ``teacher``, which is compared with nothing.
        arguments: The user's options, which may name a teacher.
    """
    given = any(argument.startswith((TEACHER, "--model.teacher")) for argument in arguments)
    if given or model == TEACHER_EXPERIMENT:
        return []
    record = read_record(model)
    own = record.get("teacher") or {}
    path = Path(str(own.get("path")))
    if "teacher" not in record:
        lacking = "the checkpoint records none"
    elif not own:
        lacking = "the checkpoint's run had none"
    elif own.get("class_path") != LOADER or not own.get("path"):
        lacking = f"that of the checkpoint's run was built by {own.get('class_path')}"
    elif not path.exists():
        lacking = f"{path}, that of the checkpoint's run, is not there"
    elif sha256(path) != own.get("sha256"):
        lacking = f"{path} has changed since the checkpoint's run"
    else:
        return [f"--model.teacher={json.dumps({'class_path': LOADER, 'init_args': {'path': str(path)}})}"]
    print(f"no teacher is scored: {lacking}; {REMEDY}")
    return ["--model.teacher=null"]


def cautions(config: Namespace, trains: bool) -> list[str]:
    """Say what makes the scores of a run better than they should be, or meaningless.

    Args:
        config: The resolved configuration, the paths of its towers settled.
        trains: Whether the student is trained here, so that its data are those it is scored on.
    """
    said = [CAUTION] if config.quick else []
    here = patients(config.data)
    for role in ("teacher",) if trains else ("student", "teacher"):
        path = _file(config.model.get(role))
        record = read_record(path)
        there = record.get("data", here)
        if record.get("quick") and not config.quick:
            said.append(f"{role} {path} comes from {CAUTION}")
        if there == here:
            continue
        if {**there, "settings": None} == {**here, "settings": None}:
            said.append(
                f"{role} {path} was trained on another split of these data: test patients here may be among its "
                "training patients"
            )
        else:
            corpora = ", ".join(f"{name} {digest}" for name, digest in there.get("corpora", {}).items())
            source = f"{there.get('class_path')}{f' with {corpora}' if corpora else ''}"
            said.append(
                f"{role} {path} was trained on other data ({source}) than are scored here; where they share "
                "patients its scores are too good"
            )
    return said


def _file(tower: Any) -> str | None:
    """Return the file or folder that a tower's weights are read from."""
    arguments = (tower.get("init_args") or {}) if tower else {}
    return arguments.get("path") or arguments.get("weights")
