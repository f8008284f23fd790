"""results.json: a run's scores and their provenance."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import OffDiagonalSchedule
from datamodules.redaction import redacted
from experiments.process import arguments_here
from lightning_modules import DistillationModule
from metrics.benchmarks import (
    BENCHMARKS,
    PLANES,
    SUBPLANES,
    composite_score,
    eight_class_interval,
    own_benchmarks,
)
from metrics.names import (
    CONSTANT,
    EIGHT_CLASS,
    RANDOM,
    STUDENT,
    TEACHER,
    final_composite_name,
    final_name,
    with_interval,
)
from models.files import package_versions, without_nan

PACKAGES = (
    "torch", "torchvision", "lightning", "timm", "open_clip_torch", "transformers", "torchmetrics", "numpy",
    "albumentations", "opencv-python-headless", "wandb",
)  # fmt: skip
MODELS = (TEACHER, STUDENT, RANDOM)


def git_commit() -> str | None:
    """Return the commit of the checkout (with ``-dirty`` if files differ); None outside a checkout."""
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        # Installed, this file may lie inside the checkout of another project.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip() or None
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def evaluation_results(trainer: Trainer) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the flat metrics and the details of all evaluation callbacks."""
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for key, value in getattr(callback, "results", {}).items():
            details.setdefault(key, {}).update(value)  # several evaluations score one model
        metrics.update(getattr(callback, "final_metrics", {}))
    for model in (name for name in (*MODELS, CONSTANT) if name in details):
        metrics.update(joint_metrics(model, details[model]))
    return metrics, details


def joint_metrics(model: str, details: Mapping[str, Any]) -> dict[str, float]:
    """Return a model's composite score and its F1 over the eight classes of both plane benchmarks.

    Args:
        model: "student", "teacher", "random" or "constant", whose images have no predictions and no such interval.
        details: Benchmark -> details of its evaluation.
    """
    scores = {
        b.name: details[b.name][b.headline]
        for b in BENCHMARKS.values()
        if b.headline in details.get(b.name, {})
    }
    if not scores:
        return {}
    found = {final_composite_name(model): composite_score(scores)}
    if {PLANES, SUBPLANES} <= scores.keys():
        # The interval averages the classes that occur; constant answers have no scores by class.
        sizes = [
            len(details[name].get("per_class", ())) or BENCHMARKS[name].weight for name in (PLANES, SUBPLANES)
        ]
        f1 = float(np.average([scores[name] for name in (PLANES, SUBPLANES)], weights=sizes))
        both = [details[name].get("samples", []) for name in (PLANES, SUBPLANES)]
        named = {"f1": f1}
        if all(both):
            answers = [
                ([row["target"] for row in rows], [row["prediction"] for row in rows]) for rows in both
            ]
            patients = [str(row["patient"]) for rows in both for row in rows]
            intervals = [eight_class_interval(answers, patients=who) for who in (None, patients)]
            named = with_interval("f1", f1, *intervals)
        found |= {final_name(model, EIGHT_CLASS, key): value for key, value in named.items()}
    return found


def collect(
    trainer: Trainer, module: DistillationModule, selection: ModelCheckpoint, checkpoint: str, trained: bool
) -> dict[str, Any]:
    """Return scores and provenance for results.json after a test (schema: docs/metrics.md); None replaces NaN.

    `checkpoint` is the path of the scored checkpoint, empty for the current weights; `trained` says whether the run
    trained, and did not only evaluate.
    """
    metrics, details = evaluation_results(trainer)
    schedules = [one for one in trainer.callbacks if isinstance(one, OffDiagonalSchedule)]  # type: ignore[attr-defined]
    best = selection.best_model_score
    record: dict[str, Any] = {
        "metrics": metrics,
        "selection": {
            "checkpoint": checkpoint,
            "monitor": None if trained and best is None else selection.monitor,
            "score": None if best is None else float(best),
        },
        "parameters": {
            role: sum(p.numel() for p in model.parameters())
            for role, model in (("student", module.student), ("teacher", module.teacher))
            if model is not None
        },
        "steps": trainer.global_step,
        # Length of the weight schedule.
        "scheduled_steps": next((one.total_steps for one in schedules), None),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": arguments_here(),
        "git_commit": git_commit(),
        "versions": package_versions(*PACKAGES),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "device": str(module.device)},
        "details": details,
        "benchmarks": own_benchmarks([name for name in BENCHMARKS if name in details.get(STUDENT, {})]),
    }
    return dict(redacted(without_nan(record)))
