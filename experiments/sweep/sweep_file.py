"""W&B sweep files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.recipe_files import ROOT, choose

SWEEPS = ROOT / "sweeps"
YAML = (".yaml", ".yml")  # endings that distinguish a file from a name
ARGS = "${args}"
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", ARGS)


@dataclass(frozen=True)
class SweepFile:
    """A sweep file.

    Attributes:
        path: Where it was read.
        config: Its content, as W&B gets it.
    """

    path: Path
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Stem of the file, which names the sweep's folder."""
        return self.path.stem

    @property
    def command(self) -> list[str]:
        """Command with W&B's macros; W&B's default runs ``program``."""
        return [str(word) for word in self.config.get("command", DEFAULT_COMMAND)]


def sweep_names() -> list[str]:
    """Return the names of all sweep files, sorted."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def sweep_path(name: str) -> Path:
    """Return the sweep file of a name, or the path itself if a YAML file is named.

    Raises:
        ValueError: There is no such sweep; the message lists them.
    """
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
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: must be a mapping with method, metric, parameters and command")
    command = config.get("command", DEFAULT_COMMAND if "program" in config else None)
    if not isinstance(command, list | tuple) or ARGS not in command:
        raise ValueError(
            f"{path}: command: must be a list of words with {ARGS}, which stands for the parameters"
        )
    return SweepFile(path, config)
