"""From the parameters of a W&B sweep to Optuna's distributions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from experiments.sweep.parameter_rules import distribution_of, is_integer
from experiments.sweep.sweep_file import SweepFile


def _distribution(parameter: Mapping[str, Any]) -> BaseDistribution | None:
    """Return Optuna's counterpart of a parameter, None when there is none."""
    kind, low, high = distribution_of(parameter), parameter.get("min"), parameter.get("max")
    if kind == "constant":
        return CategoricalDistribution([parameter["value"]])
    if kind == "categorical":
        return CategoricalDistribution(list(parameter["values"]))
    if kind == "uniform":
        return FloatDistribution(float(low), float(high))  # type: ignore[arg-type]
    if kind == "int_uniform":
        return IntDistribution(low, high)  # type: ignore[arg-type]
    if kind == "log_uniform_values":
        return FloatDistribution(float(low), float(high), log=True)  # type: ignore[arg-type]
    if kind == "q_uniform":
        step = parameter.get("q", 1)
        if all(is_integer(value) for value in (low, high, step)):
            return IntDistribution(low, high, step=step)  # type: ignore[arg-type]
        return FloatDistribution(float(low), float(high), step=float(step))  # type: ignore[arg-type]
    return None


def search_space(sweep: SweepFile) -> dict[str, BaseDistribution]:
    """Return the distribution of every parameter.

    Raises:
        ValueError: A distribution that W&B samples and Optuna does not.
    """
    space = {}
    for name, parameter in sweep.parameters.items():
        distribution = _distribution(parameter)
        if distribution is None:
            raise ValueError(
                f"{sweep.path}: parameters.{name}.distribution: {distribution_of(parameter)} runs on W&B "
                "only; here use uniform, int_uniform, q_uniform, log_uniform_values, values or value"
            )
        space[name] = distribution
    return space


def _choices(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    assert distribution.step is not None, "a grid has no continuous parameters"
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return [distribution.low + k * distribution.step for k in range(count)]


def grid(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Return every combination, the last parameter changing fastest."""
    combinations = itertools.product(*(_choices(distribution) for distribution in space.values()))
    return [dict(zip(space, values, strict=True)) for values in combinations]
