"""Names and YAML files of experiments and data presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.messages import nearest

ROOT = Path(__file__).resolve().parent / "recipes"
BASE = ROOT / "base.yaml"
LATENCY = ROOT / "latency.yaml"
PRESETS = ROOT / "data"
TEACHER_TOWERS = PRESETS / "teacher"
STUDENTS = ROOT / "students"
DEFAULT_PRESET = "phantom"
TEACHER_EXPERIMENT = "teacher"
QUANTISED_EXPERIMENT = "srkd-qat"
ALIASES = {"dark": "srkd"}
"""Aliases of experiments; runs and results carry the original name. Version 3 of the paper calls SRKD DARK."""

# Preset -> argument of its data module -> environment variable that sets it; the preset has a default under data/.
FOLDERS = {
    "hc18": {"root": "HC18_ROOT"},
    "planes": {"root": "PLANES_ROOT"},
    "table": {"table": "TABLE", "images": "IMAGES"},
    "table-small": {"table": "TABLE", "images": "IMAGES"},
    "shards": {"urls": "SHARDS", "planes_root": "PLANES_ROOT", "hc18_root": "HC18_ROOT"},
}
# Arguments of data modules that say where data lie and how they are read, which changes nothing that is learnt; the
# content of corpora is identified by digests. A table's folder of images has none, so it counts.
READING = {
    "num_workers", "workers", "cache", "pin_memory", "evaluation_batch_size",
    *(argument for arguments in FOLDERS.values() for argument in arguments if argument != "images"),
}  # fmt: skip


def experiment_names() -> list[str]:
    """Return the names of all experiments, sorted."""
    return sorted(path.stem for path in ROOT.glob("*.yaml") if path not in (BASE, LATENCY))


def experiment_choices() -> list[str]:
    """Return the values of ``EXP=`` for help texts: names, and aliases with their meaning."""
    return [*experiment_names(), *(f"{alias} (= {name})" for alias, name in ALIASES.items())]


def preset_names() -> list[str]:
    """Return the names of all data presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def choose(kind: str, variable: str, name: str, names: list[str]) -> str:
    """Return `name` if it is in `names`, else raise a ValueError that lists them and suggests the nearest."""
    if name in names:
        return name
    hint = nearest(name, names)
    raise ValueError(f"{variable}={name}: no such {kind}{hint} (choose from: {', '.join(names)})")


def explain_names(command: str, names: Sequence[str]) -> str:
    """Return the error message for a ``train`` or ``evaluate`` command without exactly two names."""
    if len(names) > 2:
        return f"{command}: {names[2]}: unexpected argument; options begin with --, as --trainer.max_epochs=1 does"
    if command == "train":
        exp, data = ", ".join(experiment_choices()), ", ".join(preset_names())
        return f"train needs EXP=NAME and DATA=NAME; EXP is one of: {exp}; DATA is one of: {data}"
    return f"evaluate needs CKPT=path/to/best.ckpt, or EXP={TEACHER_EXPERIMENT} for the preset's own teacher"


def experiment_file(name: str) -> Path:
    """Return the YAML file of an experiment or of an alias."""
    chosen = choose("experiment", "EXP", name, [*experiment_names(), *ALIASES])
    return ROOT / f"{ALIASES.get(chosen, chosen)}.yaml"


def preset_file(name: str) -> Path:
    """Return the YAML file of a data preset."""
    return PRESETS / f"{choose('data preset', 'DATA', name, preset_names())}.yaml"


def student_file(name: str) -> Path:
    """Return the YAML file of a student that replaces a preset's, such as ``fifth``."""
    return STUDENTS / f"{name}.yaml"


@dataclass(frozen=True)
class Recipe:
    """The files that a command line builds on.

    Attributes:
        experiment: Name of the experiment; None when the command line names no experiment file.
        preset: Name of the data preset.
        config_files: Default config files, read before those on the command line.
    """

    experiment: str | None
    preset: str
    config_files: tuple[Path, ...]


def config_options(argv: Sequence[str]) -> list[tuple[int, Path]]:
    """Return each ``--config`` and ``-c`` of a command line: the position behind it, and its resolved path."""
    found = []
    for position, argument in enumerate(argv, start=1):
        option, equals, value = argument.partition("=")
        if option in ("--config", "-c"):
            following = argv[position] if position < len(argv) else ""
            found.append((position, value) if equals else (position + 1, following))
    return [(position, Path(text).resolve()) for position, text in found]


def recipe_of(argv: list[str]) -> Recipe:
    """Find the experiment, preset and default files of a command line.

    Args:
        argv: Arguments of the Lightning CLI, for example
            ``["fit", "--config", "experiments/recipes/srkd.yaml"]``.

    Returns:
        The recipe; the phantom preset by default. A ``config.yaml`` of an earlier run is complete: it names the preset,
        and only the base is read before it.
    """
    paths = [path for _, path in config_options(argv)]
    experiments = [path.stem for path in paths if path.parent == ROOT and path != BASE]
    presets = [path.stem for path in paths if path.parent == PRESETS]
    resolved = [path for path in paths if path.name == "config.yaml"]
    experiment = experiments[-1] if experiments else None
    preset = [DEFAULT_PRESET, *filter(None, map(_saved_preset, resolved)), *presets][-1]
    files = [BASE]
    if experiments or presets or not resolved:
        files.append(PRESETS / f"{preset}.yaml")
    if experiment == TEACHER_EXPERIMENT:
        files.append(teacher_towers(preset))
    return Recipe(experiment, preset, tuple(files))


def _saved_preset(config: Path) -> str | None:
    try:
        return preset_of(yaml.safe_load(config.read_bytes()))
    except (OSError, yaml.YAMLError, AttributeError):  # the parser of the command line says what is wrong
        return None


def teacher_towers(preset: str) -> Path:
    """Return the YAML file of a preset's own teacher."""
    towers = TEACHER_TOWERS / f"{preset}.yaml"
    if not towers.is_file():
        raise ValueError(
            f"EXP=teacher DATA={preset}: this preset uses a published teacher and has none to train; "
            "give its weights with TEACHER=path/to/weights"
        )
    return towers


def tower(preset: str, role: str) -> dict[str, Any]:
    """Return ``class_path`` and ``init_args`` of a preset's "student" or "teacher" (default: the base's)."""
    files = (preset_file(preset), BASE)
    own, base = (yaml.safe_load(path.read_text(encoding="utf-8")).get("model", {}) for path in files)
    return dict(own.get(role) or base[role])


def data_class(preset: str) -> str:
    """Return the ``class_path`` of a preset's data module."""
    return str(yaml.safe_load(preset_file(preset).read_text(encoding="utf-8"))["data"]["class_path"])


def preset_of(config: Mapping[str, Any] | None) -> str | None:
    """Return the data preset that a run's configuration reads; None for a data module of the user's own.

    It is the one that the configuration names (several may have one class), else the first with that class.
    """
    kind = ((config or {}).get("data") or {}).get("class_path")
    named, fitting = (
        (config or {}).get("preset"),
        [name for name in preset_names() if data_class(name) == kind],
    )
    return named if named in fitting else next(iter(fitting), None)


def training_arguments(experiment: str, preset: str) -> list[str]:
    """Return the Lightning CLI arguments of ``train EXPERIMENT PRESET``."""
    files = [preset_file(preset), experiment_file(experiment)]
    if experiment == TEACHER_EXPERIMENT:
        files.insert(1, teacher_towers(preset))
    return ["fit", *(f"--config={path}" for path in files)]
