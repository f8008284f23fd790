"""Settings of a sweep on this machine: validation, and Optuna's search space.

W&B validates what W&B runs; the rules here are those of a local sweep.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from experiments.sweep.sweep_file import SweepFile

LOCAL_DISTRIBUTIONS = ("constant", "categorical", "uniform", "int_uniform", "q_uniform", "log_uniform_values")
ONLY_ON_WANDB = {
    "apiVersion", "kind", "controller", "description", "job", "image_uri", "entity", "project", "scheduler",
}  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metric(_Strict):
    """Metric that a sweep optimises; `impute` and `impute_while_running` act on W&B only."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None
    impute: Any = None
    impute_while_running: Any = None


class EarlyTerminate(_Strict):
    """W&B's early stopping: at ``min_iter``, ``min_iter * eta``, ... logged evaluations the best 1/eta go on.

    ``max_iter`` and ``s`` give the first of them as ``max_iter / eta^s``. `strict` acts on W&B only.
    """

    type: Literal["hyperband"]
    min_iter: PositiveInt | None = None
    max_iter: PositiveInt | None = None
    s: PositiveInt | None = None
    eta: int = Field(3, ge=2)
    strict: bool = False

    @model_validator(mode="after")
    def _has_bands(self) -> EarlyTerminate:
        if self.min_iter is None and (self.max_iter is None or self.s is None):
            raise ValueError("needs min_iter, or max_iter and s")
        return self

    @property
    def first(self) -> int:
        """Number of evaluations after which trials are first compared."""
        if self.max_iter is not None and self.s is not None:
            return max(1, int(self.max_iter / self.eta**self.s))
        return int(self.min_iter or 1)


class LocalSettings(_Strict):
    """Settings of a sweep on this machine."""

    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: dict[str, dict[str, Any]] = Field(min_length=1)
    run_cap: PositiveInt | None = None
    early_terminate: EarlyTerminate | None = None
    program: str = ""
    command: list[Any] = []
    name: str | None = None

    @property
    def maximize(self) -> bool:
        """Whether a greater metric is better."""
        return self.metric.goal == "maximize"

    def reached(self, value: float) -> bool:
        """Return whether a value of the metric is as good as ``metric.target``; False without a target."""
        target = self.metric.target
        return target is not None and (value >= target if self.maximize else value <= target)


def local_settings(sweep: SweepFile) -> tuple[LocalSettings, dict[str, BaseDistribution]]:
    """Return the settings of a sweep on this machine and the distribution of every parameter.

    Raises:
        ValueError: A setting is missing, unknown or out of range; the message names the file and the key.
    """
    config = {key: value for key, value in sweep.config.items() if key not in ONLY_ON_WANDB}
    try:
        settings = LocalSettings.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "sweep"
        raise ValueError(f"{sweep.path}: {key}: {first['msg'].removeprefix('Value error, ')}") from None
    space = {}
    for name, parameter in settings.parameters.items():
        try:
            space[name] = _distribution(parameter)
            if settings.method == "grid":
                _choices(space[name])
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{sweep.path}: parameters.{name}: {error}") from None
    return settings, space


def _distribution(parameter: Mapping[str, Any]) -> BaseDistribution:
    """Return Optuna's distribution of a parameter; its own errors tell what is out of range."""
    if unknown := set(parameter) - {"distribution", "value", "values", "min", "max", "q"}:
        raise ValueError(f"{', '.join(sorted(map(str, unknown)))}: runs on W&B only")
    kind = parameter.get("distribution")
    if kind is not None and kind not in LOCAL_DISTRIBUTIONS:
        raise ValueError(f"{kind} runs on W&B only; here use one of {', '.join(LOCAL_DISTRIBUTIONS)}")
    if "value" in parameter or "values" in parameter:
        values = [parameter["value"]] if "value" in parameter else parameter["values"]
        if not isinstance(values, list):
            raise ValueError("values must be a list")
        return CategoricalDistribution(values)
    if not {"min", "max"} <= set(parameter):
        raise ValueError("needs value, values, or min and max")
    low, high = parameter["min"], parameter["max"]
    step = parameter.get("q", 1) if kind == "q_uniform" else None
    if all(type(bound) is int for bound in (low, high, step or 1)) and kind in (
        None,
        "int_uniform",
        "q_uniform",
    ):
        return IntDistribution(low, high, step=step or 1)
    if kind == "int_uniform":
        raise ValueError("int_uniform needs integers as min and max")
    log = kind == "log_uniform_values"
    return FloatDistribution(float(low), float(high), log=log, step=None if step is None else float(step))


def _choices(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.step is None:
        raise ValueError("a grid needs value, values, integers, or a q_uniform range")
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return [distribution.low + k * distribution.step for k in range(count)]


def grid(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Return every combination, the last parameter changing fastest."""
    combinations = itertools.product(*(_choices(distribution) for distribution in space.values()))
    return [dict(zip(space, values, strict=True)) for values in combinations]
