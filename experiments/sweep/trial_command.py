"""Spell a sweep's command out for one trial, as W&B's agent does."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.interpreter import python_here
from experiments.recipes import DEFAULT_PRESET, preset_file, recipe_of
from experiments.shorthand import data_arguments, spell_out

ENV = "/usr/bin/env"
# W&B's macros that stand for all parameters, and how each of them spells one out.
SPELLINGS: dict[str, Callable[[str, Any], list[str]]] = {
    "${args}": lambda name, value: [f"--{name}={value}"],
    "${args_no_equals}": lambda name, value: [f"--{name}", f"{value}"],
    "${args_no_hyphens}": lambda name, value: [f"{name}={value}"],
    "${args_no_boolean_flags}": lambda name, value: (
        [f"--{name}={value}"] if not isinstance(value, bool) else [f"--{name}"] if value else []
    ),
    "${args_append_hydra}": lambda name, value: [f"+{name}={value}"],
    "${args_override_hydra}": lambda name, value: [f"++{name}={value}"],
}
JSON = "${args_json}"
PARAMETERS = (*SPELLINGS, JSON)
ENVIRONMENT_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def with_arguments(command: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return a sweep's command with extra arguments before its parameters, which so override them."""
    position = next(place for place, word in enumerate(command) if word in PARAMETERS)
    return [*command[:position], *arguments, *command[position:]]


def trial_arguments(command: Sequence[str], preset: str, arguments: Sequence[str]) -> list[str]:
    """Spell out for LightningCLI what ``make sweep DATA=... TEACHER=...`` hands on, as ``make train`` does.

    Args:
        command: The sweep's command.
        preset: Name of the data preset; the phantom, which every run reads without being told, adds nothing.
        arguments: The user's arguments, with ``--teacher=``, ``--student=`` and ``--protocol=``.

    Returns:
        The arguments of every trial, the preset and its folders first.

    Raises:
        ValueError: There is no such preset, or an option has no value.
        FileNotFoundError: An option names no file.
    """
    file = os.path.relpath(preset_file(preset))  # other machines have the checkout elsewhere
    spelt = spell_out(preset, list(arguments), experiment=recipe_of(list(command)).experiment)
    return spelt if preset == DEFAULT_PRESET else [f"--config={file}", *data_arguments(preset), *spelt]


def trial_command(
    command: Sequence[str], parameters: Mapping[str, Any], program: str | None = None
) -> list[str]:
    """Fill in the macros of a command.

    Args:
        command: Words, among them W&B's macros: those of `PARAMETERS`, ``${interpreter}``, ``${program}``,
            ``${env}`` and ``${envvar:NAME}``.
        parameters: The trial's values by name.
        program: The sweep file's ``program``.

    Returns:
        The command line, with each parameter as its macro spells it: ``--name=value`` for ``${args}``.
    """
    macros = {
        **{
            macro: [word for name, value in parameters.items() for word in spelt(name, value)]
            for macro, spelt in SPELLINGS.items()
        },
        JSON: [json.dumps(dict(parameters))],
        "${interpreter}": ["python"],
        "${program}": [program or ""],
        "${env}": [ENV],
    }
    words = []
    for word in command:
        filled = ENVIRONMENT_VARIABLE.sub(lambda match: os.environ.get(match.group(1), match.group(1)), word)
        words += macros.get(filled, [filled])
    return words


def as_typed(command: Sequence[str]) -> str:
    """Return a command line that a person can paste.

    Agents and runners start ``python`` by its name, with this very Python first on the PATH. A person's shell has
    none there, or another one.
    """
    words = list(command)
    place = 1 if words[:1] == [ENV] else 0
    if words[place : place + 1] in (["python"], ["python3"]):
        words[place] = python_here()
    return shlex.join(words)
