"""What a run and the one that it is compared with should have in common, and how to train one that does."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from torch import nn

import losses
from datamodules import FetalDataModule
from experiments.recipes import BASE, experiment_file, preset_file
from experiments.report.compare import flatten, shown
from experiments.report.read_run import Run
from models import DualEncoder

TITLES = {
    "trainer.max_epochs": "epochs",
    "trainer.max_steps": "most steps",
    "model.learning_rate": "learning rate",
    "model.weight_decay": "weight decay",
    "model.warmup_steps": "warm-up",
    "model.betas": "betas",
    "model.eps": "eps",
    "model.max_logit_scale": "largest logit scale",
    "trainer.accumulate_grad_batches": "accumulation",
    "trainer.gradient_clip_val": "gradient clipping",
    "trainer.precision": "precision",
    "data.class_path": "data module",
}
TOWERS = ("student", "teacher")
PARTS = ("data.init_args.", "model.loss.init_args.")
# How images are fetched and scored, and how a loss is computed: not what is learnt.
WITHOUT_EFFECT = ("num_workers", "workers", "cache", "pin_memory", "evaluation_batch_size", "kernel")


def differences(run: Run, reference: Run) -> dict[str, str]:
    """Return what two runs should share and do not: name of the setting -> the difference in words."""
    pairs = {name: (run.record.get(name), reference.record.get(name)) for name in ("data", "seed")}
    models = [other.config.get("model") or {} for other in (run, reference)]
    pairs |= {name: (models[0].get(name), models[1].get(name)) for name in TOWERS}
    mine, theirs = flatten(run.config), flatten(reference.config)
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        title = _title(name)
        # Arguments that one of the two losses does not have belong to its class, which is said by itself.
        if title and not (name.startswith(PARTS[1]) and not (name in mine and name in theirs)):
            pairs[title] = mine.get(name), theirs.get(name)
    # A tower is a whole configuration: too long for a sentence.
    return {
        name: name if name in TOWERS else f"{name} ({_said(pair[0])}, not {_said(pair[1])})"
        for name, pair in pairs.items()
        if pair[0] != pair[1]
    }


def _title(name: str) -> str:
    """Return how the report calls a setting, nothing for one in which the two may differ."""
    for part in PARTS:
        argument = name.removeprefix(part)
        if argument != name:
            own = argument in WITHOUT_EFFECT or argument in _scheduled()
            return "" if own else argument.replace("_", " ")
    return TITLES.get(name, "")


def _scheduled() -> set[str]:
    """Return the weights that a schedule may drive, of every loss."""
    return {str(getattr(getattr(losses, name), "scheduled", None)) for name in losses.__all__}


def _said(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:g}" if isinstance(value, float) else shown(value)


def loss_in_words(run: Run) -> str:
    """Return a run's loss and the weight that it starts from or keeps, as far as its configuration tells."""
    loss = (run.config.get("model") or {}).get("loss") or {}
    name = str(loss.get("class_path", "losses.CLIPLoss")).rpartition(".")[2]
    schedule = (run.config.get("schedule") or {}).get("init_args") or {}
    if "start" in schedule:
        return f"{name} from {_said(schedule['start'])}"
    weight = getattr(getattr(losses, name, None), "scheduled", None)
    value = (loss.get("init_args") or {}).get(weight)
    return name if value is None else f"{name} at {_said(value)}"


def options_like(run: Run, experiment: str) -> list[str]:
    """Return the options with which another experiment shares this run's settings: those that its recipe lacks.

    Args:
        run: The run.
        experiment: Name of the other experiment, on the same data.
    """
    flat = flatten(run.config)
    given = {"seed_everything": run.record.get("seed"), "trainer.max_epochs": flat.get("trainer.max_epochs")}
    try:
        usual = _recipe(experiment, str(run.record["data"]))
    except ValueError:
        usual = None  # data of the user's own: what they set by default is not known
    if usual is not None:
        given |= dict(_unusual(flat, usual))
    return [
        f"--{name}={shlex.quote('null' if value is None else shown(value))}"
        for name, value in given.items()
        if name in flat or value is not None
    ]


def _unusual(flat: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings that are to be shared and are others than the recipe's."""
    for name, value in flat.items():
        tower = name.startswith(tuple(f"model.{tower}." for tower in TOWERS))
        foreign = name.startswith(PARTS[1]) and name not in usual
        if (tower or _title(name)) and not foreign and value != _as_read(usual.get(name)):
            yield name, value


def _as_read(value: Any) -> Any:
    """Return a value as a configuration file gives it back, which has no tuples."""
    return [_as_read(part) for part in value] if isinstance(value, tuple | list) else value


def _recipe(experiment: str, preset: str) -> dict[str, Any]:
    """Return an experiment's settings on a data preset by dotted names, defaults of its parts included.

    Raises:
        ValueError: There is no such preset, or a part of it cannot be read.
    """
    merged: dict[str, Any] = {"trainer": {"max_steps": -1}}  # Lightning's default
    for path in (BASE, preset_file(preset), experiment_file(experiment)):
        merged = _over(merged, yaml.safe_load(path.read_text(encoding="utf-8")))
    parser = ArgumentParser(exit_on_error=False, logger=logging.getLogger("null"))
    model = merged["model"]
    parts = {
        "student": model["student"],
        "teacher": model["teacher"],
        "loss": model["loss"],
        "data": merged["data"],
    }
    for name, kind in zip(parts, (DualEncoder, DualEncoder, nn.Module, FetalDataModule), strict=True):
        parser.add_argument(f"--{name}", type=kind)
    try:
        whole = parser.parse_object(parts).as_dict()
    except Exception as error:
        raise ValueError(f"EXP={experiment} DATA={preset}: cannot be read") from error
    merged["data"] = whole.pop("data")
    merged["model"] = model | whole
    return flatten(merged)


def _over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one configuration over another; a part of another class replaces it whole."""
    merged = dict(lower)
    for name, value in upper.items():
        below = merged.get(name)
        same = isinstance(below, Mapping) and isinstance(value, Mapping)
        if same and below.get("class_path") == value.get("class_path"):  # type: ignore[union-attr]
            merged[name] = _over(below, value)  # type: ignore[arg-type]
        else:
            merged[name] = value
    return merged
