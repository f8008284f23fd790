"""Whether W&B can be reached from here, and what to say where it cannot."""

from __future__ import annotations

import os
from typing import Literal

import wandb

from experiments.interpreter import program_here

Mode = Literal["online", "offline", "disabled"]


def wandb_mode() -> Mode:
    """Say how W&B runs here: as ``WANDB_MODE`` says, else online with credentials and offline without.

    Asks neither the user nor the network.
    """
    if _asked() == "disabled":
        return "disabled"
    if _asked() in ("offline", "dryrun") or not wandb.login(prompt=False, verify=False):
        return "offline"
    return "online"


def why_not_online() -> str:
    """Say in a few words why `wandb_mode` is not online."""
    return "not logged in" if _asked() == "online" else f"WANDB_MODE={_asked()}"


def sync_command(runs: str) -> str:
    """Return the command that sends offline runs, as a shell without an activated environment takes it.

    Args:
        runs: The runs' folders, with the shell's wildcards.
    """
    return f"{program_here('wandb')} sync {runs}"


def first_process() -> bool:
    """Say whether this is the process that speaks for all processes of a run on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _asked() -> str:
    return os.environ.get("WANDB_MODE", "online")
