"""What a finished run leaves in W&B: summary, plots, results and the best checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning import Trainer

from callbacks.wandb_run import STEP_AXIS, active_run, uploads_images
from metrics.names import RANDOM, STUDENT, TEACHER

MODELS = (STUDENT, TEACHER, RANDOM)
DETAILS = "details"  # results of single images, with their names and patients
CURVES = ("training", "validation")  # plots of a run as a whole


def publish(trainer: Trainer, folder: Path, record: Mapping[str, Any]) -> None:
    """Put a run's results into its W&B run; nothing happens without one.

    Args:
        trainer: The trainer of the run.
        folder: The run's folder, with ``plots/`` and ``checkpoints/best.ckpt``.
        record: What ``results.json`` holds.
    """
    run = active_run(trainer)
    if run is None:
        return
    run.summary.update(dict(record["metrics"]))
    everything = uploads_images(trainer)
    # The evaluations have sent their own figures, named after the models, already.
    drawn = [path for path in sorted((folder / "plots").glob("*.png")) if not path.stem.startswith(MODELS)]
    if not everything:
        drawn = [path for path in drawn if path.stem in CURVES]
    if drawn:
        plots = {f"plots/{path.stem}": wandb.Image(str(path)) for path in drawn}
        run.log({**plots, STEP_AXIS: trainer.global_step})
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
        # Immutable: the file is sent, or later synced, from where it lies, instead of being copied first.
        model.add_file(str(best), policy="immutable")
        _log(run, model)


def _log(run: Any, artifact: wandb.Artifact) -> None:
    """Log an artifact's newest version, and drop the older versions."""
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
