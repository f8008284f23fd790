"""Run a sweep file on W&B: create the sweep, then work for it as an agent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import wandb

from experiments.sweep.sweep_file import SweepFile
from experiments.sweep.trial_command import with_arguments

PROJECT = "sonodistill"


def create_sweep(sweep: SweepFile, arguments: Sequence[str]) -> str:
    """Create the sweep on the server and return its id, as ``project/id`` or ``entity/project/id``."""
    config = {"name": sweep.name, **sweep.config, "command": with_arguments(sweep.command, arguments)}
    entity, project = config.get("entity"), str(config.get("project", PROJECT))
    sweep_id = wandb.sweep(config, entity=entity, project=project)
    return "/".join(filter(None, (entity, project, sweep_id)))


def run_agent(sweep_id: str, count: int | None) -> int:
    """Work on a sweep until it has no more runs, or for `count` of them; return the agent's exit status."""
    command = [sys.executable, "-m", "wandb", "agent", *(["--count", str(count)] if count else []), sweep_id]
    python = str(Path(sys.executable).parent)
    # The agent starts `python` by its name.
    environment = {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ.get('PATH', '')}"}
    return subprocess.run(command, env=environment, check=False).returncode
