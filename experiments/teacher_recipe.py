"""Tell a preset's own teacher from one that was trained by other settings."""

from __future__ import annotations

import json
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from lightning import Trainer

from datamodules import FetalDataModule
from experiments.plain_errors import PlainErrorParser
from experiments.recipes import BASE, TEACHER_EXPERIMENT, experiment_file, preset_file, teacher_towers
from lightning_modules import DistillationModule

# Trainer settings that decide what a teacher becomes; the others say where it is trained and what is shown.
TRAINING = (
    "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "limit_train_batches",
    "limit_val_batches", "overfit_batches", "check_val_every_n_epoch", "val_check_interval",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision", "callbacks",
)  # fmt: skip
# Data settings that decide which patients a teacher sees; they are kept beside its checkpoint. `seed` is not
# among them: runs with several seeds share their test patients, and so their teacher.
PATIENTS = ("root", "corpus", "split_seed", "val_share", "test_share", "hc18_test_share")
# Data settings that change how pictures are read, or their order, and not what is learned from them.
READING = ("seed", "num_workers", "workers", "evaluation_batch_size", "pin_memory", "cache")
SECTIONS = ("model", "data", "trainer")


def teacher_config(preset: str) -> Namespace:
    """Resolve the settings that ``EXP=teacher DATA=preset`` has when nothing is overridden.

    Raises:
        ValueError: The preset has no small teacher.
    """
    parser = PlainErrorParser()
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_lightning_class_args(DistillationModule, "model")
    parser.add_lightning_class_args(FetalDataModule, "data", subclass_mode=True)
    files = (BASE, preset_file(preset), teacher_towers(preset), experiment_file(TEACHER_EXPERIMENT))
    contents = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    # One after the other, as on the command line: a later file's class takes the place of an earlier one's.
    options = [
        f"--config={json.dumps({name: content[name] for name in SECTIONS if name in content})}"
        for content in contents
    ]
    config: Namespace = parser.parse_args(options)
    return config


def overridden(config: Namespace, preset: str) -> list[str]:
    """Return the settings in which a teacher's run departs from its preset's recipe, sorted.

    Args:
        config: The resolved configuration of the run.
        preset: Name of a preset that has a small teacher.
    """
    given, recipe = _learned_from(config), _learned_from(teacher_config(preset))
    return sorted(name for name in given.keys() | recipe.keys() if given.get(name) != recipe.get(name))


def _learned_from(config: Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {f"trainer.{name}": config.trainer.get(name) for name in TRAINING}
    settings |= {f"model.{name}": value for name, value in config.model.items()}
    settings["data"] = config.data.class_path
    settings |= {
        f"data.{name}": value
        for name, value in (config.data.get("init_args") or Namespace()).as_dict().items()
        if name not in (*PATIENTS, *READING)
    }
    # A checkpoint that was chosen on the test patients has seen them.
    settings["paper_selection"] = bool(config.get("paper_selection"))
    for name in ("biometry", "planes"):  # what the checkpoint was selected by
        settings[f"{name}.benchmarks"] = (config.get(name) or {}).get("benchmarks")
    return settings
