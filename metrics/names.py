"""The name of every benchmark and of every logged number, so that no two places can disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLANES, SUBPLANES, HC18 = "planes", "subplanes", "hc18"
BENCHMARKS = (PLANES, SUBPLANES, HC18)
HEADLINE = {PLANES: "f1", SUBPLANES: "f1", HC18: "validity"}

STUDENT, TEACHER, RANDOM = "student", "teacher", "random"
VAL_COMPOSITE = "val/composite"

OFF_DIAGONAL_WEIGHT = "train/off_diagonal_weight"
LOGIT_SCALE = "train/logit_scale"
DUPLICATE_CAPTIONS = "train/duplicate_captions"


def loss_name(stage: str, term: str) -> str:
    """Name a term of the loss: ``train/loss/total``."""
    return f"{stage}/loss/{term}"


def validation_name(model: str, benchmark: str, key: str) -> str:
    """Name a number of a validation epoch: ``val/planes/f1``, for the teacher ``val/teacher/planes/f1``."""
    prefix = "val" if model == STUDENT else f"val/{model}"
    return f"{prefix}/{benchmark}/{key}"


def final_name(model: str, benchmark: str, key: str) -> str:
    """Name a number of the final evaluation: ``student/planes/f1``."""
    return f"{model}/{benchmark}/{key}"


def scalars(scores: Mapping[str, Any]) -> dict[str, float]:
    """Keep the plain numbers of a metric's result, the part that loggers take."""
    return {key: float(value) for key, value in scores.items() if isinstance(value, int | float)}
