"""The small teachers of the data presets: trained once, when first needed, and kept."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from datamodules.phantom import SIMULATOR_VERSION
from experiments.child_process import STOPPED, run_child, terminable
from experiments.recipes import TEACHER_TOWERS, Recipe, data_class
from experiments.run_folder import OUTPUTS, RUN_VARIABLE
from experiments.shorthand import lacks_weights
from experiments.teacher_recipe import PATIENTS, overridden


def teacher_checkpoint(preset: str) -> Path:
    """Return where the trained teacher of a preset is kept."""
    return OUTPUTS / "teachers" / f"{preset}.ckpt"


# What a launcher of several processes sets; the teacher is trained in one.
LAUNCHER = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
# Beginnings of variables that belong to the run which asks: the teacher must not write into a trial's W&B run.
OF_THIS_RUN = ("TORCHELASTIC", "WANDB_RUN", "WANDB_SWEEP")


def _data_settings(config: Namespace) -> dict[str, Any]:
    """Return the data settings that decide which patients a teacher has seen."""
    return {key: value for key, value in config.data.init_args.as_dict().items() if key in PATIENTS}


def _settings(config: Namespace, preset: str) -> dict[str, Any]:
    """Return all that a preset's teacher depends on, as it is kept beside the checkpoint."""
    return {
        "class_path": config.data.class_path,
        **_data_settings(config),
        "simulator": SIMULATOR_VERSION,
        "recipe": yaml.safe_load((TEACHER_TOWERS / f"{preset}.yaml").read_text()),
    }


def ensure_teacher(config: Namespace, recipe: Recipe) -> None:
    """Train each small teacher that the run builds on and that is missing or out of date.

    A run builds on its preset's own teacher, and the teacher of a preset may continue that of another one. Of
    several processes that want one at once, the first trains it and the others wait.

    Args:
        config: The resolved configuration of the run.
        recipe: Files of ours that the run builds on.

    Raises:
        ValueError: Training the teacher failed (its own message stands above), or the wanted teacher is a
            published model without its weights.
        KeyboardInterrupt: Ctrl-C came while a teacher was trained.
        TerminatedError: SIGTERM came while a teacher was trained.
    """
    check_weights(config.model.get("teacher"))
    if not config.get("ckpt_path"):
        warn_of_random_student(config.model.get("student"))
    for tower in (config.model.get("teacher"), config.model.get("student")):
        preset = preset_behind(tower)
        if preset is None:
            continue
        path = teacher_checkpoint(preset)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Other data than the preset's own cannot hold its test patients, nor train its teacher.
        own = preset == recipe.preset and config.data.class_path == data_class(preset)
        with FileLock(path.with_suffix(".lock")):
            if own:
                _put_stale_aside(path, _settings(config, preset))
            if not path.is_file():
                if tower is config.model.get("teacher") and not _asks_teacher(config.model.get("loss")):
                    print("the loss needs no teacher; the evaluation has one as the line to beat", end=" ")
                    print("(ARGS=--model.teacher=null leaves it out)", flush=True)
                _train(preset, config if own else None)


def preset_behind(tower: Any) -> str | None:
    """Return the preset whose own teacher a tower is read from; None for any other tower."""
    path = str((tower.get("init_args") or {}).get("path")) if tower else ""
    presets = (file.stem for file in TEACHER_TOWERS.glob("*.yaml"))
    return next((preset for preset in presets if str(teacher_checkpoint(preset)) == path), None)


def _put_stale_aside(path: Path, wanted: dict[str, Any]) -> None:
    """Rename a teacher that was trained on other data or by another recipe: it may have seen test patients."""
    sidecar = path.with_suffix(".json")
    if not path.is_file() or not sidecar.is_file():
        return  # a checkpoint without a sidecar was put there by hand
    text = sidecar.read_text()
    if _comparable(json.loads(text)) == _comparable(json.loads(json.dumps(wanted))):
        return
    kept = path.with_name(f"{path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.ckpt")
    print(f"{path} was trained on other data or by another recipe; it is kept as {kept}", flush=True)
    sidecar.replace(kept.with_suffix(".json"))
    path.replace(kept)


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Make the data folder absolute: it is one folder however it is spelt."""
    root = settings.get("root")
    return settings if root is None else {**settings, "root": str(Path(root).resolve())}


def _asks_teacher(loss: Any) -> bool:
    """Tell whether a loss compares with a teacher in training; its `needs_teacher` says so."""
    if not loss:
        return False
    module, _, name = loss.class_path.rpartition(".")
    return bool(getattr(getattr(importlib.import_module(module), name), "needs_teacher", False))


def _train(preset: str, config: Namespace | None) -> None:
    path = teacher_checkpoint(preset)
    print(f"no teacher at {path} yet: training it first (EXP=teacher DATA={preset})", flush=True)
    # The run that asks scores the teacher on the same test patients, beside its student.
    command = [sys.executable, "-m", "experiments", "train", "teacher", preset, "--score_test_patients=false"]
    settings = {} if config is None else _data_settings(config)
    command += [
        f"--data.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
        if value is not None
    ]
    apart = (RUN_VARIABLE, *LAUNCHER)
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in apart and not key.startswith(OF_THIS_RUN)
    }
    try:
        with terminable():
            status = run_child(command, environment)
    except STOPPED as stop:
        raise type(stop)("while the teacher was trained; the same command trains it anew") from None
    if status != 0 or not path.is_file():
        raise ValueError(f"training the teacher failed; once it works, it is kept at {path}")
    print(f"teacher ready at {path}\n", flush=True)


def check_weights(teacher: Any) -> None:
    """Refuse a published teacher with random weights: its student would learn noise.

    Raises:
        ValueError: The teacher's weights are not given.
    """
    if teacher and lacks_weights(teacher.as_dict()):
        raise ValueError(
            f"model.teacher: {teacher['init_args']['name']} needs its weights: TEACHER=path/to/weights "
            "(docs/reproduce.md says where they come from), or ARGS=--model.teacher=null with a loss that "
            "needs no teacher"
        )


@rank_zero_only
def warn_of_random_student(student: Any) -> None:
    """Say that a published architecture starts from random weights: at its small learning rate it learns little."""
    if student and lacks_weights(student.as_dict()):
        print(
            f"warning: model.student: {student['init_args']['name']} has random weights; STUDENT=path/to/weights "
            "gives it published ones (TEACHER= with EXP=teacher; docs/reproduce.md says where they are)",
            flush=True,
        )


def publish_teacher(best: Path, recipe: Recipe, config: Namespace) -> None:
    """Keep a freshly trained teacher where other experiments look for it, if it is the preset's own.

    A teacher of other settings, of one epoch for a try, must not be what later students learn from; one line says
    where it lies. A kept teacher of other patients is put aside, never overwritten.

    Args:
        best: The selected checkpoint of the run.
        recipe: Files of ours that the run was built on.
        config: The resolved configuration of the run.
    """
    target = teacher_checkpoint(recipe.preset)
    changed = overridden(config, recipe.preset)
    if changed:
        print(
            f"not kept as the teacher of DATA={recipe.preset}, whose recipe has another {', '.join(changed)}; "
            f"to distil from it: TEACHER={best}"
        )
        return
    settings = _settings(config, recipe.preset)
    target.parent.mkdir(parents=True, exist_ok=True)
    _put_stale_aside(target, settings)
    partial = target.with_suffix(".partial")
    shutil.copyfile(best, partial)
    partial.replace(target)
    sidecar = target.with_suffix(".json.partial")
    sidecar.write_text(json.dumps(settings, indent=2))
    sidecar.replace(target.with_suffix(".json"))
    print(f"teacher kept at {target}")
