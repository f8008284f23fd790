"""What W&B accepts as a parameter of a sweep.

Follows the schema that W&B publishes with its sweep engine (https://github.com/wandb/sweeps,
``src/sweeps/config/schema.json``, version 0.3.0), which its server applies. That engine cannot be installed
beside NumPy 2, hence these rules.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """Keys of one distribution.

    Attributes:
        required: Keys that must be there.
        optional: Keys that may be there.
        integer: Whether ``min`` and ``max`` must be integers.
        positive: Whether ``min`` must be above 0.
    """

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    integer: bool = False
    positive: bool = False


RANGE = frozenset({"min", "max"})
NORMAL = frozenset({"mu", "sigma"})
BETA = frozenset({"a", "b"})
Q = frozenset({"q"})
RULES = {
    "constant": Rule(frozenset({"value"})),
    "categorical": Rule(frozenset({"values"})),
    "categorical_w_probabilities": Rule(frozenset({"values", "probabilities"})),
    "int_uniform": Rule(RANGE, integer=True),
    "uniform": Rule(RANGE),
    "q_uniform": Rule(RANGE, Q),
    "log_uniform_values": Rule(RANGE, positive=True),
    "inv_log_uniform_values": Rule(RANGE, positive=True),
    "q_log_uniform_values": Rule(RANGE, Q, positive=True),
    "normal": Rule(optional=NORMAL),
    "log_normal": Rule(optional=NORMAL),
    "q_normal": Rule(optional=NORMAL | Q),
    "q_log_normal": Rule(optional=NORMAL | Q),
    "beta": Rule(optional=BETA),
    "q_beta": Rule(optional=BETA | Q),
}
DEPRECATED = ("log_uniform", "inv_log_uniform", "q_log_uniform")
GRID = ("constant", "categorical", "int_uniform", "q_uniform")


def is_number(value: object) -> bool:
    """Say whether a YAML value is a number that a finite float holds (a bool is none)."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def is_integer(value: object) -> bool:
    """Say whether a YAML value is an integer, as `is_number` limits it."""
    return isinstance(value, int) and is_number(value)


def distribution_of(parameter: Mapping[str, Any]) -> str:
    """Return the distribution that a parameter names, or that W&B infers from its keys."""
    if "distribution" in parameter:
        return str(parameter["distribution"])
    if "value" in parameter:
        return "constant"
    if "values" in parameter:
        return "categorical_w_probabilities" if "probabilities" in parameter else "categorical"
    whole = is_integer(parameter.get("min")) and is_integer(parameter.get("max"))
    return "int_uniform" if whole else "uniform"


def parameter_problem(parameter: object) -> tuple[str, str] | None:
    """Return what W&B would refuse in a parameter: (key below it or "", reason), None when nothing."""
    if not isinstance(parameter, Mapping):
        return "", "must be a mapping such as {min: 1, max: 2} or {values: [1, 2]}"
    if "parameters" in parameter:
        return "parameters", "nested parameters never reach the command line; give each its dotted name"
    name = distribution_of(parameter)
    if name in DEPRECATED:
        return (
            "distribution",
            f"{name} is deprecated; use {name}_values, whose bounds are the values themselves",
        )
    if name not in RULES:
        return "distribution", f"{name!r} is not one of {', '.join(RULES)}"
    rule = RULES[name]
    keys = set(parameter) - {"distribution"}
    for key in sorted(keys - rule.required - rule.optional):
        return str(key), f"a {name} parameter has no such key"
    for key in sorted(rule.required - keys):
        return key, f"a {name} parameter needs it"
    return _values_problem(parameter) or _bounds_problem(parameter, rule)


def _values_problem(parameter: Mapping[str, Any]) -> tuple[str, str] | None:
    if "values" not in parameter:
        return None
    values, shares = parameter["values"], parameter.get("probabilities")
    if not isinstance(values, list) or not values:
        return "values", "must be a list with at least one value"
    if shares is None:
        return None
    if not isinstance(shares, list) or not all(is_number(p) and p >= 0 for p in shares):
        return "probabilities", "must be a list of numbers, none below 0"
    if len(shares) != len(values):
        return "probabilities", f"{len(shares)} probabilities for {len(values)} values"
    if not math.isclose(sum(shares), 1.0, rel_tol=1e-5, abs_tol=1e-8):
        return "probabilities", f"must sum to 1, not {sum(shares):g}"
    return None


def _bounds_problem(parameter: Mapping[str, Any], rule: Rule) -> tuple[str, str] | None:
    for key in ("min", "max", "q", "mu", "sigma", "a", "b"):
        if key in parameter and not is_number(parameter[key]):
            return key, f"must be a finite number, not {reprlib.repr(parameter[key])}"
    for key in ("sigma", "a", "b"):
        if parameter.get(key, 0) < 0:
            return key, "must not be below 0"
    if parameter.get("q", 1) <= 0:
        return "q", "must be above 0"
    if not {"min", "max"} <= set(parameter):
        return None
    low, high = parameter["min"], parameter["max"]
    for key, value in (("min", low), ("max", high)):
        if rule.integer and not is_integer(value):
            return key, f"must be an integer, not {value!r}"
    if rule.positive and low <= 0:
        return "min", f"must be above 0, not {low}"
    return None if low < high else ("min", f"{low} is not less than max {high}")
