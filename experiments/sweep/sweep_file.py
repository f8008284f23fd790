"""W&B sweep files, and the command lines of their trials."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config import data_arguments, expand_file_options
from experiments.process import python_here
from experiments.recipe_files import DEFAULT_PRESET, ROOT, choose, preset_file, recipe_of
from models.files import read_yaml

SWEEPS = ROOT / "sweeps"
YAML = (".yaml", ".yml")  # endings that distinguish a file from a name
ARGS = "${args}"  # stands for the parameters of a trial, here and on W&B


@dataclass(frozen=True)
class SweepFile:
    """A sweep file: `config` is its content, as W&B gets it."""

    path: Path
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Stem of the file, which names the sweep's folder."""
        return self.path.stem

    def command(self, arguments: Sequence[str] = ()) -> list[str]:
        """Return the command with further arguments before its parameters, which override them."""
        words = [str(word) for word in self.config["command"]]
        place = words.index(ARGS)
        return [*words[:place], *arguments, *words[place:]]


def sweep_names() -> list[str]:
    """Return the names of all sweep files, sorted."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def sweep_path(name: str) -> Path:
    """Return the sweep file of a name, or the path itself if a YAML file is named."""
    if name.endswith(YAML):
        return Path(name)
    return SWEEPS / f"{choose('sweep', 'SWEEP', name, sweep_names())}.yaml"


def read_sweep(path: Path) -> SweepFile:
    """Read a sweep file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a YAML mapping, or its command has no place for the parameters.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such sweep file (choose from: {', '.join(sweep_names())})")
    config = read_yaml(path)
    command = config.get("command") if isinstance(config, dict) else None
    if not isinstance(command, list) or ARGS not in command:
        raise ValueError(f"{path}: needs a command, a list of words with {ARGS} for the parameters")
    parameters = config.get("parameters")
    for parameter in parameters.values() if isinstance(parameters, dict) else ():
        if isinstance(parameter, dict):
            if "value" in parameter:
                parameter["value"] = _as_text(parameter["value"])
            if isinstance(values := parameter.get("values"), list):
                parameter["values"] = [_as_text(value) for value in values]
    return SweepFile(path, config)


def _as_text(value: Any) -> Any:
    """Return null, a list or a mapping as the text that an option takes, a scalar as it is.

    W&B's agent, like `str`, would write None for null, which the command line reads as a name.
    """
    return json.dumps(value, default=str) if value is None or isinstance(value, list | dict) else value


def trial_arguments(sweep: SweepFile, preset: str, arguments: Sequence[str]) -> list[str]:
    """Return the LightningCLI arguments that ``make sweep DATA=... TEACHER=...`` adds to every trial.

    Args:
        sweep: The sweep file.
        preset: Name of the data preset; the default preset adds nothing.
        arguments: The user's arguments, with ``--teacher=``, ``--student=`` and ``--protocol=``.

    Raises:
        FileNotFoundError: A recipe that the command names is not in the working directory.
    """
    named = [word.removeprefix("--config=") for word in sweep.command() if word.startswith("--config=")]
    if missing := [name for name in named if not Path(name).is_file()]:
        raise FileNotFoundError(
            f"{sweep.path}: its command names {missing[0]}, which does not exist in this folder; start the sweep in "
            "the checkout (make -C CHECKOUT sweep)"
        )
    file = os.path.relpath(preset_file(preset))  # other machines have the checkout elsewhere
    own = expand_file_options(preset, list(arguments), experiment=recipe_of(sweep.command()).experiment)
    return own if preset == DEFAULT_PRESET else [f"--config={file}", *data_arguments(preset), *own]


def trial_command(command: Sequence[str], parameters: Mapping[str, Any]) -> list[str]:
    """Return the command line of one trial, its parameters written as W&B's agent spells them."""
    place = list(command).index(ARGS)
    options = [f"--{name}={value}" for name, value in parameters.items()]
    return [*command[:place], *options, *command[place + 1 :]]


def as_typed(command: Sequence[str]) -> str:
    """Return a command line to paste into a shell, with this Python in place of a bare ``python``.

    Agents and runners find ``python`` on their PATH; a user's shell may have none there, or another one.
    """
    words = list(command)
    if words[:1] in (["python"], ["python3"]):
        words[0] = python_here()
    return shlex.join(words)
