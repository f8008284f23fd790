"""Whether W&B can be reached from here."""

from __future__ import annotations

import os
from typing import Literal

import wandb

Mode = Literal["online", "offline", "disabled"]


def wandb_mode() -> Mode:
    """Say how W&B runs here: as ``WANDB_MODE`` says, else online with credentials and offline without.

    Asks neither the user nor the network.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "disabled":
        return "disabled"
    if mode in ("offline", "dryrun") or not wandb.login(prompt=False, verify=False):
        return "offline"
    return "online"
