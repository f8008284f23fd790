"""The small teacher of a data preset: trained once, when first needed, and kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from experiments.recipes import TEACHER_TOWERS, Recipe
from experiments.run_folder import OUTPUTS, RUN_VARIABLE
from experiments.shorthand import lacks_weights


def teacher_checkpoint(preset: str) -> Path:
    """Return where the trained teacher of a preset is kept."""
    return OUTPUTS / "teachers" / f"{preset}.ckpt"


def _settings(config: Namespace) -> dict[str, Any]:
    """Return the data settings that decide which patients a teacher has seen."""
    data: dict[str, Any] = config.data.as_dict()
    return {"class_path": data["class_path"], **{k: v for k, v in data["init_args"].items() if k in DECISIVE}}


# `seed` is not among them: runs with several seeds share their test patients, and so their teacher.
DECISIVE = ("root", "corpus", "split_seed", "val_share", "test_share", "hc18_test_share")


def ensure_teacher(config: Namespace, recipe: Recipe) -> None:
    """Train the preset's teacher when the run wants it and it is missing.

    Args:
        config: The resolved configuration of the run.
        recipe: Files of ours that the run builds on.

    Raises:
        ValueError: Training the teacher failed (its own message stands above), or the wanted teacher is a
            published model without its weights.
    """
    teacher = config.model.get("teacher")
    check_weights(teacher)
    path = teacher_checkpoint(recipe.preset)
    if not teacher or str(teacher.get("init_args", {}).get("path")) != str(path):
        return
    if path.is_file():
        _warn_if_other_data(path, config)
        return
    towers = TEACHER_TOWERS / f"{recipe.preset}.yaml"
    if not towers.is_file() or int(os.environ.get("LOCAL_RANK", "0")) > 0:
        return
    print(f"no teacher at {path} yet: training it first (EXP=teacher DATA={recipe.preset})", flush=True)
    command = [sys.executable, "-m", "experiments", "train", "teacher", recipe.preset]
    settings = {
        key: value for key, value in _settings(config).items() if key in DECISIVE and value is not None
    }
    command += [f"--data.{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in settings.items()]
    environment = {key: value for key, value in os.environ.items() if key != RUN_VARIABLE}
    if subprocess.run(command, env=environment, check=False).returncode != 0 or not path.is_file():
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


def _warn_if_other_data(path: Path, config: Namespace) -> None:
    sidecar = path.with_suffix(".json")
    if sidecar.is_file() and json.loads(sidecar.read_text()) != json.loads(json.dumps(_settings(config))):
        print(
            f"warning: {path} was trained on other data settings (see {sidecar}), so it may have seen this run's "
            "test patients; delete it to train one on these"
        )


def publish_teacher(best: Path, recipe: Recipe, config: Namespace) -> None:
    """Keep a freshly trained teacher where other experiments look for it."""
    target = teacher_checkpoint(recipe.preset)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".json").write_text(json.dumps(_settings(config), indent=2))
    partial = target.with_suffix(".partial")
    shutil.copyfile(best, partial)
    partial.replace(target)
    print(f"teacher kept at {target}")
