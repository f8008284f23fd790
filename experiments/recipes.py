"""Find experiments and data presets by name, and put their YAML files in order.

A run reads, later ones overriding: ``base.yaml`` (the paper's recipe), the data preset (towers, sizes and
epochs that fit the corpus), for ``EXP=teacher`` the preset's teacher tower, then the experiment (its loss
and schedule alone).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent
BASE = ROOT / "base.yaml"
PRESETS = ROOT / "data"
TEACHER_TOWERS = PRESETS / "teacher"
DEFAULT_PRESET = "phantom"
TEACHER_EXPERIMENT = "teacher"
QUANTISED_EXPERIMENT = "srkd-qat"
ALIASES = {"dark": "srkd"}
"""Other names of experiments, which runs and results never carry. DARK: SRKD's name in its paper's third version."""


def experiment_names() -> list[str]:
    """Return the names of all experiments, sorted."""
    return sorted(path.stem for path in ROOT.glob("*.yaml") if path != BASE and path.stem != "latency")


def experiment_choices() -> list[str]:
    """Return what ``EXP=`` takes, for help: the names, and the aliases with what they mean."""
    return [*experiment_names(), *(f"{alias} (= {name})" for alias, name in ALIASES.items())]


def preset_names() -> list[str]:
    """Return the names of all data presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def choose(kind: str, variable: str, name: str, names: list[str]) -> str:
    """Return `name` if it is one of `names`, else raise a ValueError that lists them and guesses."""
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"{variable}={name}: no such {kind}{hint} (choose from: {', '.join(names)})")


def explain_names(command: str, names: Sequence[str]) -> str:
    """Return what is wrong with a ``train`` or ``evaluate`` command that does not have its two names."""
    if len(names) > 2:
        return (
            f"{command}: {names[2]}: a stray word; an option begins with --, as --trainer.max_epochs=1 does"
        )
    if command == "train":
        exp, data = ", ".join(experiment_choices()), ", ".join(preset_names())
        return f"train needs EXP=NAME and DATA=NAME; EXP is one of: {exp}; DATA is one of: {data}"
    return f"evaluate needs CKPT=path/to/best.ckpt, or EXP={TEACHER_EXPERIMENT} for the preset's own teacher"


def experiment_file(name: str) -> Path:
    """Return the YAML file of an experiment or of an alias.

    Raises:
        ValueError: No experiment has that name; the message lists them.
    """
    chosen = choose("experiment", "EXP", name, [*experiment_names(), *ALIASES])
    return ROOT / f"{ALIASES.get(chosen, chosen)}.yaml"


def preset_file(name: str) -> Path:
    """Return the YAML file of a data preset.

    Raises:
        ValueError: No preset has that name; the message lists them.
    """
    return PRESETS / f"{choose('data preset', 'DATA', name, preset_names())}.yaml"


@dataclass(frozen=True)
class Recipe:
    """What a command line asks for.

    Attributes:
        experiment: Name of the experiment, or None when no file of ours is named.
        preset: Name of the data preset.
        config_files: Files that a run reads before those on its command line.
    """

    experiment: str | None
    preset: str
    config_files: tuple[Path, ...]


def config_paths(argv: list[str]) -> list[Path]:
    """Return the resolved paths behind every ``--config`` and ``-c`` of a command line, in order."""
    paths = []
    for position, argument in enumerate(argv):
        option, equals, value = argument.partition("=")
        if option in ("--config", "-c"):
            text = value if equals else (argv[position + 1] if position + 1 < len(argv) else "")
            paths.append(Path(text).resolve())
    return paths


def recipe_of(argv: list[str]) -> Recipe:
    """Work out which files of ours a command line builds on.

    Args:
        argv: Arguments as LightningCLI gets them, for example
            ``["fit", "--config", "experiments/srkd.yaml"]``.

    Returns:
        The recipe. Without a preset on the command line it is the phantom's. A resolved ``config.yaml`` of
        an earlier run stands alone: nothing is read before it but the base.
    """
    paths = config_paths(argv)
    experiments = [path.stem for path in paths if path.parent == ROOT and path != BASE]
    presets = [path.stem for path in paths if path.parent == PRESETS]
    resolved = any(path.name == "config.yaml" for path in paths)
    experiment = experiments[-1] if experiments else None
    preset = presets[-1] if presets else DEFAULT_PRESET
    files = [BASE]
    if experiments or presets or not resolved:
        files.append(PRESETS / f"{preset}.yaml")
    if experiment == TEACHER_EXPERIMENT:
        files.append(teacher_towers(preset))
    return Recipe(experiment, preset, tuple(files))


def teacher_towers(preset: str) -> Path:
    """Return the YAML file of a preset's own small teacher.

    Raises:
        ValueError: The preset has a published teacher.
    """
    towers = TEACHER_TOWERS / f"{preset}.yaml"
    if not towers.is_file():
        raise ValueError(
            f"EXP=teacher DATA={preset}: this preset uses a published teacher and has none to train; "
            "give its weights with TEACHER=path/to/weights"
        )
    return towers


def tower(preset: str, role: str) -> dict[str, Any]:
    """Return ``class_path`` and ``init_args`` of a preset's "student" or "teacher", the base's by default.

    Raises:
        ValueError: There is no such preset.
    """
    files = (preset_file(preset), BASE)
    own, base = (yaml.safe_load(path.read_text(encoding="utf-8")).get("model", {}) for path in files)
    return dict(own.get(role) or base[role])


def data_class(preset: str) -> str:
    """Return the ``class_path`` of a preset's data module.

    Raises:
        ValueError: There is no such preset.
    """
    return str(yaml.safe_load(preset_file(preset).read_text(encoding="utf-8"))["data"]["class_path"])


def training_arguments(experiment: str, preset: str) -> list[str]:
    """Spell ``train EXPERIMENT PRESET`` out for LightningCLI.

    Raises:
        ValueError: There is no such experiment or preset.
    """
    files = [preset_file(preset), experiment_file(experiment)]
    if experiment == TEACHER_EXPERIMENT:
        files.insert(1, teacher_towers(preset))
    return ["fit", *(f"--config={path}" for path in files)]


def evaluation_arguments(preset: str, model: str, options: Sequence[str] = ()) -> list[str]:
    """Spell ``evaluate PRESET MODEL`` out for LightningCLI.

    Args:
        preset: Name of the data preset to score on.
        model: Path of a checkpoint or of a folder that `transformers` saved, or ``teacher`` for the preset's
            teacher.
        options: The user's other options. They take part in the run's name: an evaluation with another teacher,
            protocol or split must not overwrite the results of this one.

    Raises:
        ValueError: There is no such preset.
        FileNotFoundError: There is no such checkpoint, or it is a run's folder.
    """
    config = preset_file(preset)
    if model == TEACHER_EXPERIMENT:
        student = tower(preset, "teacher")
        run = f"teacher-{preset}"
    else:
        path = _checkpoint(model)
        student = {"class_path": "models.from_checkpoint", "init_args": {"path": model}}
        parents = [part for part in path.resolve().parts[1:-1] if part != "checkpoints"][-2:]
        run = "-".join([*parents, path.stem, "on", preset])
    run = "-".join([run, *_named(options)])
    arguments = ["test", f"--config={config}", "--experiment=evaluate", f"--run={run}"]
    # Not verbose: our own table shows what matters of it, results.json holds all.
    arguments += [f"--model.student={json.dumps(student)}", "--model.loss=losses.CLIPLoss", "--verbose=false"]
    return arguments + (["--model.teacher=null"] if model == TEACHER_EXPERIMENT else [])


def _checkpoint(model: str) -> Path:
    """Return the file that is to be evaluated, or the folder that `transformers` saved."""
    path = Path(model)
    if not path.exists():
        known = model in (*experiment_names(), *ALIASES)
        problem = f"EXP={model}: an experiment to train" if known else f"CKPT={model}: no such file"
        raise FileNotFoundError(
            f"{problem}; give CKPT=outputs/EXP/RUN/checkpoints/best.ckpt, which make train "
            f"writes, or EXP={TEACHER_EXPERIMENT}"
        )
    best = next(path.glob("checkpoints/best.ckpt"), None) or next(path.glob("best.ckpt"), None)
    if best is not None:
        raise FileNotFoundError(f"CKPT={model}: a run's folder; give CKPT={best}")
    return path


def _named(options: Sequence[str]) -> list[str]:
    """Return words for a run's name that tell these options from any others; none for no options."""
    if not options:
        return []
    given = [option.partition("=") for option in options]
    files = [Path(value).stem for option, _, value in given if option in ("--teacher", "--protocol")]
    return [*files, hashlib.sha256("\n".join(options).encode()).hexdigest()[:6]]
