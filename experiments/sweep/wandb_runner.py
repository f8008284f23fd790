"""Run a sweep file on W&B: create the sweep, then work for it as agents."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import wandb

from experiments.process import child_environment, run_children, terminable, without_secrets

if TYPE_CHECKING:  # an agent needs no PyTorch
    from experiments.sweep.sweep_file import SweepFile

PROJECT = "sonodistill"


def create_sweep(
    sweep: SweepFile, arguments: Sequence[str], name: str | None = None, count: int | None = None
) -> str:
    """Create the sweep on the server, which validates it, and return its id, ``entity/project/id``.

    Args:
        sweep: The sweep file.
        arguments: Extra arguments of every trial.
        name: Name of the sweep; None for the file's.
        count: Runs of this machine; a smaller ``run_cap`` is raised to it.
    """
    command = sweep.command(arguments)
    secret = next((word for word in command if without_secrets(word) != word), None)
    if secret is not None:
        raise ValueError(
            f"{without_secrets(secret)}: W&B would store the password or token of this URL in the sweep command; sweep "
            "on this machine (WANDB_MODE=offline), or name the data without one"
        )
    config = {"name": sweep.name, **sweep.config, "command": command}
    if name is not None:
        config["name"] = name
    if count is not None and "run_cap" in config:
        config["run_cap"] = max(config["run_cap"], count)  # fewer here leave the rest to other machines
    project = str(config.get("project", PROJECT))
    sweep_id = wandb.sweep(config, entity=config.get("entity"), project=project)
    entity = os.environ.get("WANDB_ENTITY")  # wandb.sweep puts the sweep's entity there
    return "/".join(filter(None, (entity, project, sweep_id)))


def run_agents(sweep_id: str, count: int | None, jobs: int = 1) -> int:
    """Work on a sweep until it has no more runs; return the exit status of the first agent that failed, else 0.

    Args:
        sweep_id: ``[entity/]project/id``.
        count: Runs of all these agents together; None for no limit.
        jobs: Number of parallel agents.

    Raises:
        KeyboardInterrupt: Ctrl-C; the agents have forwarded it and ended after their trials.
        TerminatedError: SIGTERM; likewise.
    """
    # Without --forward-signals an agent leaves its trial behind on SIGTERM: never marked preempting nor requeued, on
    # a GPU that the next run needs.
    agent = [sys.executable, "-m", "wandb", "agent", "--forward-signals"]
    shares = [None] * jobs if count is None else [(count + place) // jobs for place in range(jobs)]
    limits = [[] if share is None else ["--count", str(share)] for share in shares if share != 0]
    with terminable():
        statuses = run_children([[*agent, *limit, sweep_id] for limit in limits], child_environment(jobs))
    return next((status for status in statuses if status), 0)
