"""Whether W&B can be reached from here, and what to say where it cannot."""

from __future__ import annotations

import os
import socket
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import wandb
from wandb.sdk import wandb_setup

from experiments.interpreter import program_here

Mode = Literal["online", "offline", "disabled"]
PATIENCE_S = 5.0


def wandb_mode() -> Mode:
    """Say how W&B runs here: as ``WANDB_MODE`` says, else online with credentials and offline without.

    Asks neither the user nor the network.
    """
    if _asked() == "disabled":
        return "disabled"
    if _asked() in ("offline", "dryrun") or not wandb.login(prompt=False, verify=False):
        return "offline"
    return "online"


def check_server() -> None:
    """Try once to reach W&B's server, whose own logger gives up only after a minute or two.

    Behind a proxy nothing is tried: the server itself need not be within reach there.

    Raises:
        ConnectionError: There is no way to it.
    """
    settings = wandb_setup.singleton().settings  # unlike wandb.setup(), it starts no process
    if settings.http_proxy or settings.https_proxy or getproxies().keys() & {"http", "https", "all"}:
        return
    server = urlsplit(settings.base_url)
    port = server.port or (80 if server.scheme == "http" else 443)
    try:
        socket.create_connection((server.hostname or "", port), timeout=PATIENCE_S).close()
    except OSError as error:
        raise ConnectionError(
            f"W&B: {server.hostname}, port {port}, cannot be reached ({error.strerror or error}); without network: "
            "WANDB_MODE=offline"
        ) from error


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
