"""What the short commands stand for: folders named by variables, and options for weights and prompts.

``make train DATA=hc18 HC18_ROOT=/data/HC18 TEACHER=teacher.pt`` hands make's variables on: folders as
environment variables, the others as ``--teacher=``, ``--student=`` and ``--protocol=``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from experiments.recipes import QUANTISED_EXPERIMENT, tower

# Preset -> argument of its data module -> the variable that gives it. Without the variable the preset's own
# value counts, a folder under data/.
FOLDERS = {
    "hc18": {"root": "HC18_ROOT"},
    "planes": {"root": "PLANES_ROOT"},
    "shards": {"urls": "SHARDS", "planes_root": "PLANES_ROOT", "hc18_root": "HC18_ROOT"},
}
TEACHER, STUDENT, PROTOCOL = "--teacher", "--student", "--protocol"


def data_arguments(preset: str) -> list[str]:
    """Return the LightningCLI arguments that the environment's folder variables stand for."""
    folders = {argument: os.environ.get(variable) for argument, variable in FOLDERS.get(preset, {}).items()}
    return [f"--data.init_args.{argument}={folder}" for argument, folder in folders.items() if folder]


def spell_out(
    preset: str, arguments: list[str], scored: str = "student", experiment: str | None = None
) -> list[str]:
    """Replace ``--teacher=``, ``--student=`` and ``--protocol=`` by what LightningCLI takes.

    Args:
        preset: Name of the data preset.
        arguments: The user's arguments, in which the three may occur.
        scored: What an evaluation scores; with "teacher" the preset's teacher stands in the student's place.
        experiment: What is trained; ``srkd-qat`` goes on from the student's whole checkpoint.

    Raises:
        ValueError: One of the three has no value, or the protocol file is malformed.
        FileNotFoundError: One of the three names no file.
    """
    spelt: list[str] = []
    for argument in arguments:
        named = named_file(argument)
        if named is None:
            spelt.append(argument)
            continue
        option, value = named
        if option == PROTOCOL:
            from datamodules.protocol import Protocol  # here, because it imports PyTorch

            Protocol.load(value)  # says what is wrong with it
            spelt += [f"--biometry.protocol={value}", f"--planes.protocol={value}"]
        elif option == TEACHER:
            place = "student" if scored == "teacher" else "teacher"
            spelt.append(f"--model.{place}={_loaded(value)}")
        elif experiment == QUANTISED_EXPERIMENT:
            spelt.append(f"--model.student.init_args.checkpoint={value}")
        elif tower(preset, "student")["class_path"] == "models.OpenCLIPEncoder":
            # Weights alone: the student's own contract (statistics, context length) is the experiment's.
            spelt.append(f"--model.student.init_args.weights={value}")
        else:
            spelt.append(f"--model.student={_loaded(value)}")
    return spelt


def named_file(argument: str) -> tuple[str, str] | None:
    """Return option and path of an argument that names weights or prompts; None for any other argument.

    Raises:
        ValueError: It has no value.
        FileNotFoundError: It names no file.
    """
    option, _, value = argument.partition("=")
    if option not in (TEACHER, STUDENT, PROTOCOL):
        return None
    if not value:
        raise ValueError(f"{option}: give a path, {option}=path")
    if not Path(value).exists():
        raise FileNotFoundError(f"{option.removeprefix('--').upper()}={value}: no such file")
    return option, value


def _loaded(path: str) -> str:
    return json.dumps({"class_path": "models.from_checkpoint", "init_args": {"path": path}})


def lacks_weights(settings: object) -> bool:
    """Tell whether a tower is built from a published architecture without its published weights."""
    if not isinstance(settings, dict):
        return False
    arguments = settings.get("init_args") or {}
    return settings.get("class_path") == "models.OpenCLIPEncoder" and not arguments.get("weights")
