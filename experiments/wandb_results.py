"""What a finished run leaves in W&B: summary, plots, results and the best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning import Trainer

from callbacks.wandb_run import STEP_AXIS, active_run
from metrics.names import RANDOM, STUDENT, TEACHER

MODELS = (STUDENT, TEACHER, RANDOM)


def publish(trainer: Trainer, folder: Path, record: Mapping[str, Any]) -> None:
    """Put a run's results into its W&B run; nothing happens without one.

    Args:
        trainer: The trainer of the run.
        folder: The run's folder, with ``results.json``, ``plots/`` and ``checkpoints/best.ckpt``.
        record: What ``results.json`` holds.
    """
    run = active_run(trainer)
    if run is None:
        return
    run.summary.update(dict(record["metrics"]))
    # The evaluations have sent their own figures, named after the models, already.
    drawn = [path for path in sorted((folder / "plots").glob("*.png")) if not path.stem.startswith(MODELS)]
    if drawn:
        plots = {f"plots/{path.stem}": wandb.Image(str(path)) for path in drawn}
        run.log({**plots, STEP_AXIS: trainer.global_step})
    details = {"experiment": record["experiment"], "data": record["data"], "seed": record["seed"]}
    _log_file(run, folder / "results.json", "results", {**details, "git_commit": record["git_commit"]})
    _log_file(run, folder / "checkpoints" / "best.ckpt", "model", {**details, **record["selection"]})


def _log_file(run: Any, path: Path, kind: str, metadata: dict[str, Any]) -> None:
    """Log a file as the newest version of its artifact, and drop the older versions."""
    if not path.is_file():
        return
    artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind, metadata=metadata)
    # Immutable: the file is sent, or later synced, from where it lies, instead of being copied first.
    artifact.add_file(str(path), policy="immutable")
    logged = run.log_artifact(artifact, aliases=["latest", "best"])
    if not run.offline:
        logged.wait()
        drop_older_versions(logged)


def drop_older_versions(newest: Any) -> None:
    """Delete every other version of an artifact from the server; a resumed run would add one each time."""
    name = f"{newest.entity}/{newest.project}/{newest.name.partition(':')[0]}"
    for version in wandb.Api().artifacts(newest.type, name):
        if version.version != newest.version:
            version.delete(delete_aliases=True)
