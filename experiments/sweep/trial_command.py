"""Command line of one trial, spelt as W&B's agent spells it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config import data_arguments, spell_out
from experiments.process import python_here
from experiments.recipe_files import DEFAULT_PRESET, preset_file, recipe_of
from experiments.sweep.sweep_file import ARGS

ENV = "/usr/bin/env"


def with_arguments(command: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return a sweep's command with extra arguments before its parameters, which override them."""
    position = list(command).index(ARGS)
    return [*command[:position], *arguments, *command[position:]]


def trial_arguments(command: Sequence[str], preset: str, arguments: Sequence[str]) -> list[str]:
    """Return the LightningCLI arguments that ``make sweep DATA=... TEACHER=...`` adds to every trial.

    Args:
        command: The sweep's command.
        preset: Name of the data preset; the default preset adds nothing.
        arguments: The user's arguments, with ``--teacher=``, ``--student=`` and ``--protocol=``.

    Raises:
        ValueError: There is no such preset, or an option has no value.
        FileNotFoundError: An option names no file.
    """
    file = os.path.relpath(preset_file(preset))  # other machines have the checkout elsewhere
    spelt = spell_out(preset, list(arguments), experiment=recipe_of(list(command)).experiment)
    return spelt if preset == DEFAULT_PRESET else [f"--config={file}", *data_arguments(preset), *spelt]


def trial_command(command: Sequence[str], parameters: Mapping[str, Any], program: str = "") -> list[str]:
    """Fill in W&B's macros ``${args}``, ``${env}``, ``${interpreter}`` and ``${program}``.

    Args:
        command: Words of the command.
        parameters: The trial's values by name; ``${args}`` spells them ``--name=value``.
        program: The sweep file's ``program``.
    """
    macros = {
        ARGS: [f"--{name}={value}" for name, value in parameters.items()],
        "${interpreter}": ["python"],
        "${program}": [program],
        "${env}": [ENV],
    }
    return [filled for word in command for filled in macros.get(word, [word])]


def as_typed(command: Sequence[str]) -> str:
    """Return a command line to paste into a shell, with this Python in place of a bare ``python``.

    Agents and runners find ``python`` on their PATH; a user's shell may have none there, or another one.
    """
    words = list(command)
    place = 1 if words[:1] == [ENV] else 0
    if words[place : place + 1] in (["python"], ["python3"]):
        words[place] = python_here()
    return shlex.join(words)
