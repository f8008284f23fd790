"""Whether W&B can be reached from here."""

from __future__ import annotations

import os

import wandb

OFFLINE_MODES = ("offline", "dryrun", "disabled")


def wandb_is_offline() -> bool:
    """Say whether W&B cannot or shall not be reached: no credentials, or ``WANDB_MODE`` says so.

    Asks neither the user nor the network.
    """
    if os.environ.get("WANDB_MODE", "") in OFFLINE_MODES:
        return True
    return not wandb.login(prompt=False, verify=False)
