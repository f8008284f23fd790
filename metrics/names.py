"""Names of all logged numbers, their titles, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .benchmarks import BENCHMARKS

STUDENT, TEACHER, RANDOM = "student", "teacher", "random"
# Baselines without an image, fitted on training patients: the best constant answer, `constant/hc18/validity` and
# `constant/planes/f1`; and what pixel size alone tells of age, `pixel_size/hc18/validity`.
CONSTANT, PIXEL_SIZE = "constant", "pixel_size"
# Input ablations of the tested student: `student/hc18/black_image_validity`.
BLACK_IMAGE, OTHER_IMAGE, ONE_PIXEL_SIZE = ABLATIONS = "black_image", "other_image", "one_pixel_size"
# Planes and sub-planes together, as the paper reports F1: `student/eight_class/f1`.
EIGHT_CLASS = "eight_class"
PROBE, RETRIEVAL, GEOMETRY = "probe", "retrieval", "geometry"  # `student/probe/views_f1`, `geometry/cka`
# `student/none/planes_auroc`, `student/age_interval/coverage`.
NONE_OF_THESE, AGE_INTERVAL = "none", "age_interval"
VAL_COMPOSITE = "val/composite"

OFF_DIAGONAL_WEIGHT = "train/off_diagonal_weight"
LEARNING_RATE = "train/learning_rate"  # followed by the parameter group: `train/learning_rate/pg1`
LOGIT_SCALE = "train/logit_scale"
TEACHER_LOGIT_SCALE = "train/teacher_logit_scale"
OFF_DIAGONAL_PHASE = "train/off_diagonal_phase"
IMAGES_PER_SECOND = "speed/images_per_second"
DATA_WAIT_SHARE = "speed/data_wait_share"
DIAGONAL_CORRELATION = "probe/diagonal_correlation"
OFF_DIAGONAL_CORRELATION = "probe/off_diagonal_correlation"
CONFUSING_PAIRS = "probe/confusing_pairs"
SKIPPED = "train/skipped"
VAL_LOSS = "val/loss/total"

# First parts of the names of everything that is logged.
GROUPS = (
    "train", "gradient_norm", "speed", "probe", "val", "best", "evaluation", "test", STUDENT, TEACHER, RANDOM,
    CONSTANT, PIXEL_SIZE, GEOMETRY, "plots",
)  # fmt: skip


def loss_name(stage: str, term: str) -> str:
    """Return the name of a loss's result: ``train/loss/total``; the statistic is ``train/duplicate_captions``."""
    return f"{stage}/duplicate_captions" if term == "duplicate_rate" else f"{stage}/loss/{term}"


def validation_name(model: str, benchmark: str, key: str) -> str:
    """Return the name of a validation score: ``val/planes/f1``, for the teacher ``val/teacher/planes/f1``."""
    prefix = "val" if model == STUDENT else f"val/{model}"
    return f"{prefix}/{benchmark}/{key}"


def final_name(model: str, benchmark: str, key: str) -> str:
    """Return the name of a test score: ``student/planes/f1``."""
    return f"{model}/{benchmark}/{key}"


def final_composite_name(model: str) -> str:
    """Return the name of the composite test score: ``student/composite``."""
    return f"{model}/composite"


def interval_names(metric: str, patients: bool = False) -> tuple[str, str]:
    """Return the names of the ends of a metric's 95 % interval: ``f1_ci_low``; over patients ``f1_patient_ci_low``."""
    over = "_patient" if patients else ""
    return f"{metric}{over}_ci_low", f"{metric}{over}_ci_high"


def with_interval(
    metric: str, value: float, interval: tuple[float, float], patients: tuple[float, float] | None = None
) -> dict[str, float]:
    """Return a metric, the ends of its interval over images and, if given, of that over patients, by name."""
    named = {metric: value, **dict(zip(interval_names(metric), interval, strict=True))}
    if patients is not None:
        named |= dict(zip(interval_names(metric, patients=True), patients, strict=True))
    return named


def scalars(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the plain numbers of a metric's result, which loggers accept."""
    return {key: float(value) for key, value in scores.items() if isinstance(value, int | float)}


def constant_title(metrics: Mapping[str, float | None]) -> str:
    """Return the title of the constant baseline of a run: ``constant age 20w1d, majority class``; empty without one.

    Ages that differ between the run's benchmarks are not named.
    """
    answers = {
        name: value
        for name, value in metrics.items()
        if name.startswith(f"{CONSTANT}/") and value is not None
    }
    ages = {int(value) for name, value in answers.items() if name.endswith("/age_days")}
    titles = ["constant age {}w{}d".format(*divmod(min(ages), 7)) if len(ages) == 1 else "constant age"]
    titles = titles if ages else []
    return ", ".join(titles + ["majority class"] * any(name.endswith("/f1") for name in answers))


def model_titles(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Return model or baseline of a run -> its title in tables."""
    titles = {RANDOM: "random weights", PIXEL_SIZE: "pixel size alone", CONSTANT: constant_title(metrics)}
    return {TEACHER: TEACHER, STUDENT: STUDENT, **titles}


def formatted(value: float | None, digits: int = 3, nothing: str = "-") -> str:
    """Write a number, or `nothing` for None and NaN."""
    return nothing if value is None or value != value else f"{round(value, digits) + 0.0:.{digits}f}"


def with_sign(value: float, digits: int = 3) -> str:
    """Write a difference with its sign, zero as +0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def headline_directions() -> dict[str, str]:
    """Return ``max`` or ``min``, the direction of improvement, of every validation metric with a best value."""
    scores = [VAL_COMPOSITE, *(validation_name(STUDENT, b.name, b.headline) for b in BENCHMARKS.values())]
    return {**dict.fromkeys(scores, "max"), VAL_LOSS: "min"}


def geometry_name(key: str, model: str | None = None) -> str:
    """Return the name of a number of the embedding geometry: ``geometry/cka``, ``geometry/student/effective_rank``."""
    return f"{GEOMETRY}/{key}" if model is None else f"{GEOMETRY}/{model}/{key}"
