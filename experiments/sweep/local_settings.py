"""Settings of a sweep on this machine, and Optuna's search space; W&B validates what W&B runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from pydantic import BaseModel, Field, JsonValue, ValidationError

from experiments.sweep.sweep_file import SweepFile
from models.messages import one_line, problems

WANDB_ONLY = "acts on W&B only"
OnWandb = Annotated[Any, WANDB_ONLY]


class Metric(BaseModel, extra="forbid"):
    """Metric that a sweep optimises."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None
    impute: OnWandb = None
    impute_while_running: OnWandb = None


class EarlyTerminate(BaseModel, extra="forbid"):
    """W&B's early stopping: at ``min_iter``, ``min_iter * eta``, ... logged evaluations the best 1/eta go on.

    ``max_iter`` and ``s`` give the first of them as ``max_iter / eta^s``.
    """

    type: Literal["hyperband"]
    min_iter: int = Field(1, ge=1)
    max_iter: int | None = Field(None, ge=1)
    s: int | None = Field(None, ge=0)
    eta: int = Field(3, gt=1)
    strict: OnWandb = None

    @property
    def first(self) -> int:
        """Number of evaluations after which trials are first compared."""
        if self.max_iter is not None and self.s is not None:
            return max(1, int(self.max_iter / self.eta**self.s))
        return self.min_iter


class Parameter(BaseModel, extra="forbid"):
    """Values of a parameter: one, a list, or a range, in steps of `q` for ``q_uniform``."""

    distribution: (
        Literal["constant", "categorical", "uniform", "int_uniform", "q_uniform", "log_uniform_values"] | None
    ) = None
    value: JsonValue = None  # no dates, which YAML has
    values: list[JsonValue] | None = None
    min: int | float | None = None
    max: int | float | None = None
    q: int | float = 1

    def optuna(self) -> BaseDistribution:
        """Return Optuna's distribution; its own errors tell what is out of range."""
        if self.values is not None or "value" in self.model_fields_set:
            values = [self.value] if self.values is None else self.values
            return CategoricalDistribution(values)  # type: ignore[arg-type]  # `read_sweep` leaves scalars
        if self.min is None or self.max is None:
            raise ValueError("needs value, values, or min and max")
        stepped = self.distribution == "q_uniform"
        whole = all(isinstance(bound, int) for bound in (self.min, self.max, self.q))
        if self.distribution == "int_uniform" or (whole and (stepped or self.distribution is None)):
            return IntDistribution(int(self.min), int(self.max), step=int(self.q) if stepped else 1)
        log, step = self.distribution == "log_uniform_values", float(self.q) if stepped else None
        return FloatDistribution(float(self.min), float(self.max), log=log, step=step)


class LocalSettings(BaseModel, extra="forbid"):
    """Settings of a sweep on this machine, and W&B's other keys (src/sweeps/config/schema.json of wandb/sweeps)."""

    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: dict[str, Parameter]
    run_cap: int | None = Field(None, ge=1)
    early_terminate: EarlyTerminate | None = None
    # Without effect on a search.
    command: Any = None
    program: Any = None
    name: Any = None
    description: Any = None
    project: Any = None
    entity: Any = None
    apiVersion: Any = None  # noqa: N815
    kind: Any = None
    controller: OnWandb = None
    image_uri: OnWandb = None
    job: OnWandb = None
    scheduler: OnWandb = None

    def pruner(self) -> BasePruner:
        """Return Optuna's asynchronous successive halving: one bracket of Hyperband, as on W&B."""
        stop = self.early_terminate
        return NopPruner() if stop is None else SuccessiveHalvingPruner(stop.first, stop.eta)


def local_settings(sweep: SweepFile) -> tuple[LocalSettings, dict[str, BaseDistribution]]:
    """Return the settings of a sweep on this machine and the distribution of every parameter.

    Raises:
        ValueError: A setting is missing, unknown or out of range; the message names the file and the key.
    """
    try:
        settings = LocalSettings.model_validate(sweep.config)
    except ValidationError as error:
        raise ValueError(f"{sweep.path}: {one_line(problems(error))}") from None
    space = {}
    for name, parameter in settings.parameters.items():
        try:
            space[name] = parameter.optuna()
            if settings.method == "grid":
                _choices(space[name])
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{sweep.path}: parameters.{name}: {error}") from None
    return settings, space


def without_effect(settings: LocalSettings) -> list[str]:
    """Return the keys of a sweep file that act on W&B only."""
    parts = {"": settings, "metric.": settings.metric, "early_terminate.": settings.early_terminate}
    return [
        f"{place}{key}"
        for place, part in parts.items()
        if part is not None
        for key, field in type(part).model_fields.items()
        if key in part.model_fields_set and WANDB_ONLY in field.metadata
    ]


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
    combinations = itertools.product(*map(_choices, space.values()))
    return [dict(zip(space, values, strict=True)) for values in combinations]
