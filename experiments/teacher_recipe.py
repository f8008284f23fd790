"""Settings of a small teacher, and the digest of them that names its kept checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from lightning import Trainer

from datamodules import FetalDataModule
from experiments.plain_errors import PlainErrorParser
from experiments.quick import BOUNDS, QUICK
from experiments.recipes import BASE, TEACHER_EXPERIMENT, experiment_file, preset_file, teacher_towers
from experiments.run_record import patients
from lightning_modules import DistillationModule

# Trainer settings that decide what a teacher becomes; the others say where it is trained and what is shown.
TRAINING = (
    "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "limit_train_batches",
    "limit_val_batches", "overfit_batches", "check_val_every_n_epoch", "val_check_interval",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision", "callbacks",
)  # fmt: skip
# Data settings that do not change what is learned. The corpora themselves count by content, see `patients`.
READING = (
    "root", "urls", "planes_root", "hc18_root", "num_workers", "workers", "evaluation_batch_size", "pin_memory",
    "cache",
)  # fmt: skip
SECTIONS = ("seed_everything", "model", "data", "trainer")


def teacher_config(preset: str, options: Sequence[str] = ()) -> Namespace:
    """Resolve the settings of ``EXP=teacher DATA=preset``.

    Args:
        preset: Name of the data preset.
        options: Further options of the command line, under ``--data.``, or ``--quick=true``.

    Raises:
        ValueError: The preset has no small teacher.
    """
    return _resolved(preset, tuple(options)).clone()


@cache
def _resolved(preset: str, options: tuple[str, ...]) -> Namespace:
    parser = PlainErrorParser()
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--seed_everything", type=int)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_lightning_class_args(DistillationModule, "model")
    parser.add_lightning_class_args(FetalDataModule, "data", subclass_mode=True)
    files = (BASE, preset_file(preset), teacher_towers(preset), experiment_file(TEACHER_EXPERIMENT))
    contents = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    # One after the other, as on the command line: a later file's class takes the place of an earlier one's.
    arguments = [
        f"--config={json.dumps({name: content[name] for name in SECTIONS if name in content})}"
        for content in contents
    ]
    given = [*(BOUNDS if QUICK in options else ()), *options]
    arguments += [option for option in given if option.startswith(("--trainer.", "--data."))]
    config: Namespace = parser.parse_args(arguments)
    return config


def teacher_digest(config: Namespace) -> str:
    """Return 12 hexadecimal digits that change with anything that a teacher's run learns from.

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
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
