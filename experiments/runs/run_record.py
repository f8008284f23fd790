"""What a run records of itself: its data and teacher in the checkpoint, its settings in ``config.yaml``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from jsonargparse import Namespace

from datamodules.phantom.corpus import SIMULATOR_VERSION
from datamodules.redaction import redacted
from experiments.config import CAUTION, TEACHER_OPTION
from experiments.recipe_files import TEACHER_EXPERIMENT, preset_of
from experiments.runs.input_digests import SHARDS, data_places, place_digests, shard_corpora
from export.package.model_card import RANDOM_START
from lightning_modules.distillation import RUN_RECORD
from models.checkpoints.licences import NOTHING_INHERITED, published_file, unidentified_licence
from models.checkpoints.weights import read_entry
from models.files import read_yaml, sha256

# Data settings that decide which patients are trained on. Not `seed`: runs with several seeds share their test patients
# and their teacher.
SPLIT = ("corpus", "split_seed", "val_share", "test_share", "hc18_test_share")
LOADER = "models.from_checkpoint"
# Arguments of towers that name a file or folder.
WEIGHTS = ("path", "weights", "checkpoint", "trunk_weights", "folder")
# Towers that start from random weights where no file is named.
RANDOM_TOWERS = ("models.TimmEncoder", "models.OpenCLIPEncoder")
REMEDY = "TEACHER=path/to/checkpoint compares with one"
TOO_GOOD = "scores on it are too good"
RANDOM_PREFIX = "random:"
SIMULATED = "datamodules.PhantomDataModule"


def patients(data: Namespace) -> dict[str, Any]:
    """Return what decides which patients a run trains on; corpora are identified by content, since folders move."""
    settings = (data.get("init_args") or Namespace()).as_dict()
    preset = preset_of({"data": {"class_path": data.class_path}})
    chosen = settings if preset is None else {name: settings[name] for name in SPLIT if name in settings}
    found = {
        "class_path": data.class_path,
        "simulator": SIMULATOR_VERSION,
        "settings": chosen,
        "corpora": place_digests(data_places(data)),
    }
    return dict(redacted(json.loads(json.dumps(found, default=str))))


def make_record(config: Namespace) -> dict[str, Any]:
    """Return the record of a run.

    Returns:
        ``data`` (see `patients`); ``before``, the same of the runs whose weights the student starts from;
        ``test_patients_of``, the public corpora whose test patients are in the training shards of all these;
        ``teacher``, ``start`` (see `_weights`), ``quick``.
    """
    start = read_record(_file(config.model.get("student")))
    return {
        "data": patients(config.data),
        "before": [*start.get("before", []), start["data"]] if "data" in start else [],
        "test_patients_of": sorted({*start.get("test_patients_of", []), *_scored_in_shards(config)}),
        "teacher": _weights(config.model.get("teacher")),
        "start": _weights(config.model.get("student")),
        "quick": bool(config.quick),
    }


def _weights(tower: Any) -> dict[str, Any] | None:
    """Return class, file, SHA-256 and licence of the weights that a tower starts from; None without a tower."""
    if not tower:
        return None
    path = _file(tower)
    digest = sha256(Path(path)) if path and Path(path).exists() else None
    licence = unidentified_licence(str((tower.get("init_args") or {}).get("name")))
    if digest is not None:
        licence = _licence(str(path)) or licence
    elif path is None and tower.class_path in RANDOM_TOWERS:
        licence = NOTHING_INHERITED
    return {"class_path": tower.class_path, "path": path, "sha256": digest, "licence": licence}


def _licence(path: str) -> str | None:
    """Return the licence of a published file, or what a checkpoint of this project inherits; None if unknown."""
    published = published_file(path)
    return published.licence if published else inherited_licence(read_record(path))


def inherited_licence(record: Mapping[str, Any]) -> str | None:
    """Return the terms of teacher and initial weights in a run's record; None where it does not name them."""
    if not {"teacher", "start"} <= set(record):
        return None
    sources = (record["teacher"], record["start"])
    inherited = {source["licence"] for source in sources if source} - {NOTHING_INHERITED}
    return "; ".join(sorted(inherited)) or NOTHING_INHERITED


def read_record(path: str | None) -> dict[str, Any]:
    """Return the record in a checkpoint of this project; empty for any other file or folder."""
    return {} if path is None or not Path(path).is_file() else read_entry(path, RUN_RECORD) or {}


def teacher_arguments(model: str, arguments: Sequence[str]) -> list[str]:
    """Return the option that scores the teacher of the checkpoint's own run beside it.

    If that teacher is unavailable, no teacher is scored and one line says why. Nothing where the user's arguments name
    a teacher, or `model` is ``teacher``, which is scored alone.
    """
    given = any(argument.startswith((TEACHER_OPTION, "--model.teacher")) for argument in arguments)
    if given or model == TEACHER_EXPERIMENT:
        return []
    record = read_record(model)
    own = record.get("teacher") or {}
    path = Path(str(own.get("path")))
    if "teacher" not in record:
        reason = "the checkpoint records none"
    elif not own:
        reason = "the checkpoint's run had none"
    elif own.get("class_path") != LOADER or not own.get("path"):
        reason = f"that of the checkpoint's run was built by {own.get('class_path')}"
    elif not path.exists():
        reason = f"{path}, that of the checkpoint's run, is not there"
    elif sha256(path) != own.get("sha256"):
        reason = f"{path} has changed since the checkpoint's run"
    else:
        return [f"--model.teacher={json.dumps({'class_path': LOADER, 'init_args': {'path': str(path)}})}"]
    print(f"no teacher is scored: {reason}; {REMEDY}")
    return ["--model.teacher=null"]


def cautions(config: Namespace, trains: bool) -> list[str]:
    """Return warnings about what makes the scores of a run, which may train its student, too good or meaningless."""
    said = [CAUTION] if config.quick else []
    if trains and config.paper_selection:
        said.append("selected on the images that are reported, training images included")
    splits = config.planes.test_split, config.biometry.test_split
    if trains and not config.paper_selection and "all" in splits and SHARDS not in data_places(config.data):
        said.append("scored on all images, training images included")
    if trains:
        said += [f"the shards hold test patients of {name}: {TOO_GOOD}" for name in _scored_in_shards(config)]
    here = patients(config.data)
    for role in ("student", "teacher"):
        path = _file(config.model.get(role))
        record = read_record(path)
        if record.get("quick") and not config.quick:
            said.append(f"{role} {path} comes from {CAUTION}")
        said += [
            f"{role} {path} was trained on shards with test patients of {name}: {TOO_GOOD}"
            for name in record.get("test_patients_of", [])
        ]
        last = record.get("data", here)
        for there in (*record.get("before", []), last):
            if reason := _leak(there, here):
                said.append(f"{role} {path} was trained on {reason}")
        starts = trains and role == "student"  # it goes on to learn from these data
        if last.get("class_path") == SIMULATED != here["class_path"] and not starts:
            said.append(f"{role} {path} was trained on simulated images only and knows little of these data")
    return [*dict.fromkeys(said)]


def _scored_in_shards(config: Namespace) -> list[str]:
    """Return the public corpora whose test patients are in the run's training shards."""
    return [name for name, whose in shard_corpora(config.data).items() if whose == "all"]


def _leak(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Return which training data may hold test patients of these data; "" where none can."""
    if there == here or _apart(there, here) or there.get("class_path") == SIMULATED != here["class_path"]:
        return ""
    if {**there, "settings": None} == {**here, "settings": None}:
        return "another split of these data: test patients here may be among its training patients"
    corpora = ", ".join(f"{name} {digest}" for name, digest in there.get("corpora", {}).items())
    source = f"{there.get('class_path')}{f' with {corpora}' if corpora else ''}"
    return f"other data ({source}) than are scored here; where they share patients its scores are too good"


def _apart(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Return whether two runs read simulated corpora of different seeds, which share no patient."""
    seeds = [(record.get("settings") or {}).get("corpus", {}).get("seed") for record in (there, here)]
    return there.get("class_path") == here.get("class_path") and None not in seeds and seeds[0] != seeds[1]


def _file(tower: Any) -> str | None:
    """Return the file or folder of a tower's weights."""
    arguments = (tower.get("init_args") or {}) if tower else {}
    return next((str(arguments[key]) for key in WEIGHTS if arguments.get(key)), None)


def run_config(checkpoint: str) -> dict[str, Any] | None:
    """Return the configuration of a checkpoint's run: ``config.yaml`` beside it or above ``checkpoints/``, or None."""
    if checkpoint.startswith(RANDOM_PREFIX):
        return None
    folder = Path(checkpoint).resolve().parent
    for path in (folder / "config.yaml", folder.parent / "config.yaml"):
        if path.is_file() and (path.parent == folder or folder.name == "checkpoints"):
            content = read_yaml(path)
            if isinstance(content, dict) and isinstance(content.get("data"), dict):
                return content
    return None


def training_facts(config: dict[str, Any] | None, record: dict[str, Any]) -> dict[str, str]:
    """Describe what a student was trained from, as far as `run_config` and `read_record` know it.

    Returns:
        ``data``, ``corpus`` (its preset), ``teacher``, ``loss`` and ``start`` (initial weights), and ``sha256`` and
        ``licence`` of teacher and start (``teacher_licence``), those that are recorded.
    """
    facts = {
        f"{role}_{key}": str(value)
        for role in ("teacher", "start")
        for key in ("sha256", "licence")
        if (value := (record.get(role) or {}).get(key))
    }
    if config is None:
        return facts
    model = config.get("model") or {}
    facts["data"] = _tower(config["data"], ("root", "urls", "planes_root", "hc18_root"))
    if preset := preset_of(config):
        facts["corpus"] = preset
    if isinstance(model.get("loss"), dict):
        facts["loss"] = str(model["loss"].get("class_path"))
    teacher, student = model.get("teacher"), model.get("student")
    facts["teacher"] = "none" if not teacher else _tower(teacher, ("name", "weights", "path"))
    if isinstance(student, dict):
        arguments = student.get("init_args") or {}
        found = [PurePath(str(arguments[key])).name for key in WEIGHTS if arguments.get(key)]
        facts["start"] = ", ".join(found) or RANDOM_START
    return facts


def _tower(settings: dict[str, Any], keys: tuple[str, ...]) -> str:
    arguments = {key: str(value) for key, value in (settings.get("init_args") or {}).items() if value}
    # Cards are published: a file's name tells what it is, the folders above it tell about its owner.
    named = [
        f"{key} {arguments[key] if key == 'name' else PurePath(arguments[key]).name}"
        for key in keys
        if key in arguments
    ]
    return ", ".join([str(settings.get("class_path")), *named])
