"""Teachers of the data presets: shipped in ``models/teachers/``, or trained by ``EXP=teacher`` and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

import models
from experiments.config import resolve
from experiments.process import relative
from experiments.recipe_files import READING, TEACHER_EXPERIMENT, Recipe
from experiments.runs.run_folder import OUTPUTS
from lightning_modules.distillation import RUN_RECORD
from models import from_checkpoint, save_half
from models.checkpoints.weights import read_checkpoint

SHIPPED = Path(models.__file__).parent / "teachers"
KEPT = OUTPUTS / "teachers"
# Prefix of a path in a preset that names a preset's own teacher: "teacher:phantom".
OWN = "teacher:"
# Settings of a run that make a teacher other than its preset's own.
DECISIVE = ("seed_everything", "model", "data", "trainer", "quick", "paper_selection")
# Those of them that do not.
WITHOUT_EFFECT = (
    *(f"data.init_args.{name}" for name in READING), "trainer.logger", "trainer.default_root_dir",
    "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.accelerator", "trainer.devices",
)  # fmt: skip


def preset_behind(tower: Any) -> str | None:
    """Return the preset whose own teacher a tower names; None for any other tower."""
    path = str((tower.get("init_args") or {}).get("path")) if tower else ""
    return path.removeprefix(OWN) if path.startswith(OWN) else None


def preset_teacher(preset: str) -> Path:
    """Return the file of a preset's own teacher: the shipped one, else where ``EXP=teacher`` keeps it."""
    shipped = SHIPPED / f"{preset}.safetensors"
    return Path(relative(shipped)) if shipped.is_file() else KEPT / shipped.name


def settle_teachers(config: Namespace) -> None:
    """Replace each ``teacher:PRESET`` of a run's configuration by the file of that preset's teacher."""
    check_weights(config.model.get("teacher"))
    if not config.get("ckpt_path"):
        warn_of_random_student(config.model.get("student"))
    for tower in (config.model.get("teacher"), config.model.get("student")):
        preset = preset_behind(tower)
        if preset is None:
            continue
        path = preset_teacher(preset)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no teacher for DATA={preset} yet; make train EXP={TEACHER_EXPERIMENT} DATA={preset} trains "
                "it, TEACHER=file gives another, and ARGS=--model.teacher=null goes without one where the loss allows"
            )
        tower.init_args.path = str(path)


def publish_teacher(best: Path, recipe: Recipe, config: Namespace) -> None:
    """Keep a trained teacher in half precision where other experiments of its preset find it.

    A teacher of other settings than the preset's own is not kept, and one of other data replaces none: a trial must
    not replace a good teacher.
    """
    own = resolve(TEACHER_EXPERIMENT, recipe.preset)
    settle_teachers(own)
    if _decisive(config) != _decisive(own):
        print(f"settings differ from those of DATA={recipe.preset}; TEACHER={best} distils from this teacher")
        return
    path, record = KEPT / f"{recipe.preset}.safetensors", read_checkpoint(best)[RUN_RECORD]
    if path.is_file() and read_checkpoint(path)[RUN_RECORD]["data"] != record["data"]:
        print(f"{path} was trained on other data and stays; TEACHER={best} distils from this teacher")
        return
    save_half(from_checkpoint(str(best)), path, **{RUN_RECORD: record})
    used = path == preset_teacher(recipe.preset)
    print(
        f"teacher kept at {path}"
        + ("" if used else f"; TEACHER={path} distils from it, not from the shipped one")
    )


def _decisive(config: Namespace) -> dict[str, Any]:
    kept = Namespace({name: config.get(name) for name in DECISIVE}).clone()
    for name in WITHOUT_EFFECT:
        kept.pop(name, None)
    return dict(kept.as_dict())


def _lacks_weights(tower: Any) -> bool:
    """Return whether a tower has a published architecture and random weights."""
    return bool(tower) and tower.class_path == "models.OpenCLIPEncoder" and not tower.init_args.get("weights")


def check_weights(teacher: Any) -> None:
    """Refuse a published teacher with random weights."""
    if _lacks_weights(teacher):
        raise ValueError(
            f"model.teacher: {teacher['init_args']['name']} needs its weights: TEACHER=path/to/weights "
            "(docs/reproduce.md says where they come from), or ARGS=--model.teacher=null with a loss that "
            "needs no teacher"
        )


@rank_zero_only
def warn_of_random_student(student: Any) -> None:
    """Warn that a published student starts from random weights: at its small learning rate it learns little."""
    if _lacks_weights(student):
        print(
            f"warning: model.student: {student['init_args']['name']} has random weights; STUDENT=path/to/weights "
            "gives it published ones (TEACHER= with EXP=teacher; docs/reproduce.md says where they are)",
            flush=True,
        )
