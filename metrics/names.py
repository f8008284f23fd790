"""The name of every benchmark and of every logged number, so that no two places can disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLANES, SUBPLANES, HC18 = "planes", "subplanes", "hc18"
BENCHMARKS = (PLANES, SUBPLANES, HC18)
HEADLINE = {PLANES: "f1", SUBPLANES: "f1", HC18: "validity"}

STUDENT, TEACHER, RANDOM = "student", "teacher", "random"
CONSTANT = "constant"  # baseline without a model: the best constant age of HC18, `constant/hc18/validity`
VAL_COMPOSITE = "val/composite"
EIGHT_CLASS = (
    "eight_class"  # both plane benchmarks together, as the paper reports F1: `student/eight_class/f1`
)

OFF_DIAGONAL_WEIGHT = "train/off_diagonal_weight"
LEARNING_RATE = "train/learning_rate"  # of each group of parameters: `train/learning_rate/pg1`
LOGIT_SCALE = "train/logit_scale"
TEACHER_LOGIT_SCALE = "train/teacher_logit_scale"


def loss_name(stage: str, term: str) -> str:
    """Name what a loss returns: ``train/loss/total``; a statistic is no term: ``train/duplicate_captions``."""
    return f"{stage}/duplicate_captions" if term == "duplicate_rate" else f"{stage}/loss/{term}"


def validation_name(model: str, benchmark: str, key: str) -> str:
    """Name a number of a validation epoch: ``val/planes/f1``, for the teacher ``val/teacher/planes/f1``."""
    prefix = "val" if model == STUDENT else f"val/{model}"
    return f"{prefix}/{benchmark}/{key}"


def final_name(model: str, benchmark: str, key: str) -> str:
    """Name a number of the final evaluation: ``student/planes/f1``."""
    return f"{model}/{benchmark}/{key}"


def final_composite_name(model: str) -> str:
    """Name the composite score of the final evaluation: ``student/composite``."""
    return f"{model}/composite"


def interval_names(metric: str) -> tuple[str, str]:
    """Name the ends of a metric's 95 % interval: ``f1_ci_low`` and ``f1_ci_high``."""
    return f"{metric}_ci_low", f"{metric}_ci_high"


def with_interval(metric: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    """Return a metric and the ends of its interval by name."""
    return {metric: value, **dict(zip(interval_names(metric), interval, strict=True))}


def scalars(scores: Mapping[str, Any]) -> dict[str, float]:
    """Keep the plain numbers of a metric's result, the part that loggers take."""
    return {key: float(value) for key, value in scores.items() if isinstance(value, int | float)}


OFF_DIAGONAL_PHASE = "train/off_diagonal_phase"
IMAGES_PER_SECOND = "speed/images_per_second"
DATA_WAIT_SHARE = "speed/data_wait_share"
DIAGONAL_CORRELATION = "probe/diagonal_correlation"
OFF_DIAGONAL_CORRELATION = "probe/off_diagonal_correlation"
CONFUSING_PAIRS = "probe/confusing_pairs"
SKIPPED = "train/skipped"
VAL_LOSS = loss_name("val", "total")


def gradient_norm_name(part: str) -> str:
    """Name the norm of the gradients of a part of the student: ``gradient_norm/image``."""
    return f"gradient_norm/{part}"


def best_name(name: str) -> str:
    """Name the best value so far of a validation metric: ``val/planes/f1`` has ``best/planes/f1``."""
    return f"best/{name.removeprefix('val/')}"


def headline_directions() -> dict[str, str]:
    """Return every validation metric that has a best value, with ``max`` or ``min``: what better means."""
    scores = [VAL_COMPOSITE, *(validation_name(STUDENT, name, key) for name, key in HEADLINE.items())]
    return {**dict.fromkeys(scores, "max"), VAL_LOSS: "min"}


# What an evaluation finds beyond zero-shot: `student/probe/views_f1`, `student/retrieval/image_to_text_r1`,
# `geometry/cka`, `geometry/student/effective_rank`.
PROBE, RETRIEVAL, GEOMETRY = "probe", "retrieval", "geometry"


def geometry_name(key: str, model: str | None = None) -> str:
    """Name a number of the embedding geometry, of one model or of both together."""
    return f"{GEOMETRY}/{key}" if model is None else f"{GEOMETRY}/{model}/{key}"


# Everything that is logged lies in one of these.
GROUPS = (
    "train", "gradient_norm", "speed", "probe", "val", "best", "evaluation", "test", STUDENT, TEACHER, RANDOM,
    CONSTANT, GEOMETRY, "plots",
)  # fmt: skip
