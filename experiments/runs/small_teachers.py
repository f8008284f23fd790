"""Small teachers of the data presets: trained when first needed, kept under a digest of their settings."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from experiments.config import QUICK, lacks_weights, resolve
from experiments.process import STOPPED, run_child, terminable
from experiments.recipe_files import TEACHER_EXPERIMENT, Recipe, data_class
from experiments.runs.run_folder import OUTPUTS, RUN_VARIABLE
from experiments.runs.run_record import SPLIT, patients
from models.files import atomic, digest

TEACHERS = OUTPUTS / "teachers"
# Prefix of a path in a preset that names a preset's own teacher: "teacher:phantom".
OWN = "teacher:"
# Data settings that a run shares with its teacher.
SHARED = (*SPLIT, "root", "most_images")
# Variables of a multi-process launcher; the teacher is trained in one process.
LAUNCHER = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
# Prefixes of variables of the requesting run: the teacher must not write into a trial's W&B run.
OF_THIS_RUN = ("TORCHELASTIC", "WANDB_RUN", "WANDB_SWEEP")
# Trainer settings that affect the trained weights.
TRAINING = (
    "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "limit_train_batches",
    "limit_val_batches", "overfit_batches", "check_val_every_n_epoch", "val_check_interval",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision", "callbacks",
)  # fmt: skip
# Data settings that do not affect the trained weights; corpora count by content (`patients`).
READING = (
    "root", "urls", "planes_root", "hc18_root", "num_workers", "workers", "evaluation_batch_size", "pin_memory",
    "cache",
)  # fmt: skip


def preset_behind(tower: Any) -> str | None:
    """Return the preset whose own teacher a tower names; None for any other tower."""
    path = str((tower.get("init_args") or {}).get("path")) if tower else ""
    return path.removeprefix(OWN) if path.startswith(OWN) else None


def kept_teacher(preset: str, options: Sequence[str] = ()) -> Path:
    """Return the path of a preset's kept teacher, which need not exist.

    Args:
        preset: Name of the data preset.
        options: Options of ``EXP=teacher DATA=preset``.

    Raises:
        FileNotFoundError: The data are not where the settings say.
    """
    config = resolve(TEACHER_EXPERIMENT, preset, options)
    start = preset_behind(config.model.student)
    if start is not None:
        config.model.student.init_args.path = str(kept_teacher(start, _quick(options)))
    return _path(preset, config)


def _path(preset: str, config: Namespace) -> Path:
    return TEACHERS / f"{preset}-{teacher_digest(config)}.ckpt"


def _quick(options: Sequence[str]) -> list[str]:
    return [option for option in options if option == QUICK]


def settle_teachers(config: Namespace, recipe: Recipe, trains: bool) -> None:
    """Replace each ``teacher:PRESET`` by the file of the kept teacher, training it first if it is missing.

    The teacher of a preset may start from that of another preset. Of several processes that need a teacher at once,
    the first trains it and the others wait.

    Args:
        config: The resolved configuration of the run, which is changed.
        recipe: Files that the run builds on.
        trains: Whether the run is a training; an evaluation trains no teacher.

    Raises:
        ValueError: Training the teacher failed (its own message stands above), or the wanted teacher is a
            published model without its weights.
        FileNotFoundError: An evaluation wants a teacher that is not kept, or the data are not there.
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
        options = _options(config, recipe, preset)
        path = kept_teacher(preset, options)
        if not trains and not path.is_file():
            raise FileNotFoundError(_lacking(path, preset, options))
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                if tower is config.model.get("teacher") and not _asks_teacher(config.model.get("loss")):
                    print("the loss needs no teacher; the evaluation has one as the line to beat", end=" ")
                    print("(ARGS=--model.teacher=null leaves it out)", flush=True)
                _train(preset, options, path)
        tower.init_args.path = str(path)


def _options(config: Namespace, recipe: Recipe, preset: str) -> list[str]:
    """Return the options in which a run's teacher differs from its preset's own; none on other data."""
    options = [QUICK] if config.get("quick") else []
    if preset != recipe.preset or config.data.class_path != data_class(preset):
        return options
    own = resolve(TEACHER_EXPERIMENT, preset, options).data.init_args.as_dict()
    given = config.data.init_args.as_dict()
    return options + [
        f"--data.{name}={given[name] if isinstance(given[name], str) else json.dumps(given[name])}"
        for name in SHARED
        if name in given and given[name] != own.get(name)
    ]


def _lacking(path: Path, preset: str, options: Sequence[str]) -> str:
    """Return the error message for a missing teacher: the command that trains it, and other kept ones."""
    arguments = f" ARGS={shlex.quote(shlex.join(options))}" if options else ""
    others = sorted(path.parent.glob(f"{preset}-*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
    kept = f"; CKPT={others[0]} is one of other data or settings" if others else ""
    return (
        f"{path}: no such teacher yet; it is trained by make train EXP=teacher DATA={preset}{arguments}{kept}"
    )


def _asks_teacher(loss: Any) -> bool:
    """Return whether a loss needs a teacher in training."""
    if not loss:
        return False
    module, _, name = loss.class_path.rpartition(".")
    return bool(getattr(getattr(importlib.import_module(module), name), "needs_teacher", False))


def _train(preset: str, options: Sequence[str], path: Path) -> None:
    print(f"no teacher at {path} yet: training it first (EXP=teacher DATA={preset})", flush=True)
    # The requesting run scores the teacher beside its student.
    command = [sys.executable, "-m", "experiments", "train", "teacher", preset, "--score_test_patients=false"]
    apart = (RUN_VARIABLE, *LAUNCHER)
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in apart and not key.startswith(OF_THIS_RUN)
    }
    try:
        with terminable():
            status = run_child([*command, *options], environment)
    except STOPPED as stop:
        raise type(stop)("while the teacher was trained; the same command trains it again") from None
    if status != 0 or not path.is_file():
        raise ValueError(f"training the teacher failed; once it works, it is kept at {path}")
    print(f"teacher ready at {path}\n", flush=True)


def check_weights(teacher: Any) -> None:
    """Refuse a published teacher with random weights.

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
    """Warn that a published student starts from random weights: at its small learning rate it learns little."""
    if student and lacks_weights(student.as_dict()):
        print(
            f"warning: model.student: {student['init_args']['name']} has random weights; STUDENT=path/to/weights "
            "gives it published ones (TEACHER= with EXP=teacher; docs/reproduce.md says where they are)",
            flush=True,
        )


def publish_teacher(best: Path, recipe: Recipe, config: Namespace) -> None:
    """Keep a trained teacher under the digest of its settings, where other experiments find it.

    Args:
        best: The selected checkpoint of the run.
        recipe: Files of ours that the run was built on.
        config: The resolved configuration of the run, the paths of its towers settled.
    """
    target = _path(recipe.preset, config)
    if target.exists():
        print(f"a teacher of the same settings is kept at {target}; to distil from this one: TEACHER={best}")
        return
    with atomic(target) as partial:
        shutil.copyfile(best, partial)
    used = target == kept_teacher(recipe.preset, _options(config, recipe, recipe.preset))
    note = (
        ""
        if used
        else f"; its settings are not those of DATA={recipe.preset}, so only TEACHER={target} distils from it"
    )
    print(f"teacher kept at {target}{note}")


def teacher_digest(config: Namespace) -> str:
    """Identify a teacher by everything that its training depends on.

    Args:
        config: The resolved configuration of the run, its towers' paths settled.
    """
    data = (config.data.get("init_args") or Namespace()).as_dict()
    settings: dict[str, Any] = {
        "seed": int(config.seed_everything),
        "trainer": {name: config.as_dict()["trainer"].get(name) for name in TRAINING},
        "model": config.model.as_dict(),
        "data": {name: value for name, value in data.items() if name not in READING},
        "patients": patients(config.data),
        # A checkpoint that was chosen on the test patients has seen them.
        "paper_selection": bool(config.get("paper_selection")),
    }
    for name in ("biometry", "planes"):  # what the checkpoint was selected by
        settings[f"{name}.benchmarks"] = (config.get(name) or {}).get("benchmarks")
    return digest(settings)
