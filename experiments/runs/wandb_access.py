"""W&B: mode, reachability, and what a finished run sends there."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import wandb
from lightning import Trainer
from wandb.sdk import wandb_setup

from callbacks.tracking.logger_media import log_pictures
from callbacks.tracking.wandb_run import active_run, uploads_images
from experiments.process import program_here

PATIENCE_S = 5.0
DETAILS = "details"  # results of single images, with their names and patients
CURVES = ("training", "validation")  # plots of a run as a whole


def wandb_mode() -> Literal["online", "offline", "disabled"]:
    """Return W&B's mode: that of ``WANDB_MODE``, else online with credentials and offline without.

    Neither prompts the user nor uses the network.
    """
    if _asked() == "disabled":
        return "disabled"
    if _asked() in ("offline", "dryrun") or not wandb.login(prompt=False, verify=False):
        return "offline"
    return "online"


def check_server() -> None:
    """Connect once to W&B's server; its own logger gives up only after a minute or two.

    Skipped behind a proxy, where the server cannot be reached directly.
    """
    settings = wandb_setup.singleton().settings  # unlike wandb.setup(), starts no process
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
    """Return why `wandb_mode` is not online, for messages."""
    return "not logged in" if _asked() == "online" else f"WANDB_MODE={_asked()}"


def sync_command(runs: str) -> str:
    """Return the shell command that uploads offline runs, whose folders may hold shell wildcards."""
    return f"{program_here('wandb')} sync {runs}"


def _asked() -> str:
    return os.environ.get("WANDB_MODE", "online")


def publish(trainer: Trainer, folder: Path, record: Mapping[str, Any]) -> None:
    """Send plots of a run's folder to its loggers of pictures; results and best checkpoint to its W&B run, if any."""
    everything = uploads_images(trainer)
    # The evaluations have sent their own figures.
    names = [*CURVES, *["samples-*"] * everything]
    drawn = [path for name in names for path in sorted((folder / "plots").glob(f"{name}.png"))]
    log_pictures(trainer, {f"plots/{path.stem}": path for path in drawn}, trainer.global_step)
    run = active_run(trainer)
    if run is None:
        return
    run.summary.update(dict(record["metrics"]))
    metadata = {"experiment": record["experiment"], "data": record["data"], "seed": record["seed"]}
    results = wandb.Artifact(
        f"results-{run.id}", type="results", metadata={**metadata, "git_commit": record["git_commit"]}
    )
    sent = {name: value for name, value in record.items() if everything or name != DETAILS}
    with results.new_file("results.json", encoding="utf-8") as file:
        json.dump(sent, file, indent=1)
    _log(run, results)
    best = folder / "checkpoints" / "best.ckpt"
    if best.is_file():
        model = wandb.Artifact(f"model-{run.id}", type="model", metadata={**metadata, **record["selection"]})
        # Immutable: the file is uploaded (or synced later) from its place, without a copy.
        model.add_file(str(best), policy="immutable")
        _log(run, model)


def _log(run: Any, artifact: wandb.Artifact) -> None:
    """Log an artifact and delete its older versions."""
    logged = run.log_artifact(artifact, aliases=["latest", "best"])
    if not run.offline:
        logged.wait()
        drop_older_versions(logged)


def drop_older_versions(newest: Any) -> None:
    """Delete the older versions of an artifact on the server; every resumption would add one."""
    name = f"{newest.entity}/{newest.project}/{newest.name.partition(':')[0]}"
    for version in wandb.Api().artifacts(newest.type, name):
        if version.version != newest.version:
            version.delete(delete_aliases=True)
