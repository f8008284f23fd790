"""Read a W&B sweep file and refuse, by its key, what W&B would refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.recipes import ROOT, choose
from experiments.sweep.parameter_rules import GRID, distribution_of, is_integer, is_number, parameter_problem
from experiments.sweep.trial_command import PARAMETERS

SWEEPS = ROOT / "sweeps"
YAML = (".yaml", ".yml")  # endings that tell a file from a name
TOP_LEVEL = (
    "apiVersion", "kind", "controller", "description", "program", "job", "image_uri", "entity", "project",
    "method", "command", "name", "run_cap", "metric", "metrics", "scheduler", "early_terminate", "parameters",
)  # fmt: skip
METHODS = ("grid", "random", "bayes")
METRIC_KEYS = ("name", "goal", "target", "impute", "impute_while_running")
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
GOALS = ("minimize", "maximize")
FILE_MACRO = "${args_json_file}"  # W&B's agent writes the file
IMPUTED = {
    "impute": ("latest", "best", "worst"),
    "impute_while_running": ("latest", "best", "worst", "false"),
}
SCHEDULER_KEYS = ("engine", "source", "optimizer", "search_space")
HYPERBAND_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")

Problem = tuple[str, str]


@dataclass(frozen=True)
class SweepFile:
    """A valid sweep file.

    Attributes:
        path: Where it was read.
        config: Its content, as W&B gets it.
    """

    path: Path
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The file's own name, which names the sweep's folder."""
        return self.path.stem

    @property
    def method(self) -> str:
        """``grid``, ``random`` or ``bayes``."""
        return str(self.config["method"])

    @property
    def metric(self) -> str:
        """Name of the metric that is optimised; a grid and a random search on W&B may have none."""
        return str(self.config["metric"]["name"])

    def reached(self, value: float) -> bool:
        """Say whether a value of the metric is as good as ``metric.target``; never without one."""
        target = self.config["metric"].get("target")
        return target is not None and (value >= target if self.maximize else value <= target)

    @property
    def maximize(self) -> bool:
        """Whether more is better; W&B minimises when the file does not say."""
        return bool(self.config["metric"].get("goal", "minimize") == "maximize")

    @property
    def only_on_wandb(self) -> list[str]:
        """Keys of the file that a sweep on this machine does nothing with."""
        imputed = [f"metric.{key}" for key in IMPUTED if key in self.config["metric"]]
        return [*imputed, *(["scheduler"] if "scheduler" in self.config else [])]

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Any]]:
        """The parameters by their name on the command line."""
        parameters: Mapping[str, Mapping[str, Any]] = self.config["parameters"]
        return parameters

    @property
    def command(self) -> list[str]:
        """The command, with W&B's macros; W&B's own default runs ``program``."""
        return [str(word) for word in self.config.get("command", DEFAULT_COMMAND)]


def sweep_names() -> list[str]:
    """Return the names of all sweep files, sorted."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def sweep_path(name: str) -> Path:
    """Return the sweep file of a name, or the path itself when a YAML file is named.

    Raises:
        ValueError: There is no such sweep; the message lists them.
    """
    if name.endswith(YAML):
        return Path(name)
    return SWEEPS / f"{choose('sweep', 'SWEEP', name, sweep_names())}.yaml"


def read_sweep(path: Path) -> SweepFile:
    """Read and check a sweep file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML, or W&B would refuse it; the message names the file and the key.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such sweep file (there are: {', '.join(sweep_names())})")
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: must be a mapping with method, metric, parameters and command")
    for key, reason in problems(config):
        raise ValueError(f"{path}: {key}: {reason}")
    return SweepFile(path, config)


def problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what W&B would refuse in a sweep's configuration, as (dotted key, reason)."""
    for key in config:
        if key not in TOP_LEVEL:
            yield str(key), f"W&B knows no such key; it knows {', '.join(TOP_LEVEL)}"
    if config.get("method") not in METHODS:
        yield "method", f"{config.get('method')!r} is not one of {', '.join(METHODS)}"
    for key in ("apiVersion", "description", "program", "job", "image_uri", "entity", "project", "name"):
        if key in config and not isinstance(config[key], str):
            yield key, f"must be text, not {config[key]!r}"
    if "run_cap" in config and not (is_integer(config["run_cap"]) and config["run_cap"] > 0):
        yield "run_cap", f"must be an integer above 0, not {config['run_cap']!r}"
    if config.get("kind", "sweep") != "sweep":
        yield "kind", f"{config['kind']!r} is not sweep"
    if "controller" in config:
        yield from _controller_problems(config["controller"])
    yield from _command_problems(config)
    yield from _scheduler_problems(config)
    yield from _metric_problems(config)
    yield from _parameters_problems(config.get("parameters"), config.get("method"))
    if "early_terminate" in config:
        yield from _early_terminate_problems(config["early_terminate"])


def _controller_problems(controller: object) -> Iterator[Problem]:
    if not isinstance(controller, Mapping) or controller.get("type") not in ("local", "cloud"):
        yield "controller.type", "must be local or cloud"


def _scheduler_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    if "metrics" in config:
        yield "metrics", "W&B takes several metrics with method custom only, and never beside metric"
    if "scheduler" not in config:
        return
    scheduler = config["scheduler"]
    if not isinstance(scheduler, Mapping) or scheduler.get("engine") != "wandb":
        yield (
            "scheduler",
            f"must be a mapping with engine: wandb, which goes with method {', '.join(METHODS)}",
        )
        return
    for key, value in scheduler.items():
        if key not in SCHEDULER_KEYS:
            yield f"scheduler.{key}", f"W&B knows no such key; it knows {', '.join(SCHEDULER_KEYS)}"
        elif not isinstance(value, str):
            yield f"scheduler.{key}", f"must be text, not {value!r}"
        elif key in ("optimizer", "search_space") and "source" not in scheduler:
            yield f"scheduler.{key}", "is a function in source, which is missing"
    if "early_terminate" in config:
        yield "scheduler", "cannot be used together with early_terminate"


def _command_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    if "command" not in config:
        if "program" not in config:
            yield "command", "needs a list of words, or program for W&B's default command"
        return
    command = config["command"]
    if not isinstance(command, list) or not command:
        yield "command", "must be a list of words"
    elif FILE_MACRO in command:
        yield "command", f"{FILE_MACRO} is not supported here; use one of {', '.join(PARAMETERS)}"
    elif not any(word in PARAMETERS for word in command):
        yield "command", f"has none of {', '.join(PARAMETERS)}, so no parameter would reach the run"


def _metric_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    if "metric" not in config:
        if config.get("method") == "bayes":
            yield "metric", "method bayes needs it, with name and goal"
        elif "early_terminate" in config:
            yield "metric", "early_terminate needs it, with name and goal"
        return
    metric = config["metric"]
    if not isinstance(metric, Mapping):
        yield "metric", "must be a mapping with name and goal"
        return
    for key in metric:
        if key not in METRIC_KEYS:
            yield f"metric.{key}", f"W&B knows no such key; it knows {', '.join(METRIC_KEYS)}"
    if not isinstance(metric.get("name"), str):
        yield "metric.name", "must name the metric to optimise"
    if metric.get("goal", "minimize") not in GOALS:
        yield "metric.goal", f"{metric['goal']!r} is not one of {', '.join(GOALS)}"
    for key, allowed in IMPUTED.items():
        if key in metric and metric[key] not in allowed:
            quoted = '; write "false" in quotes' if metric[key] is False and "false" in allowed else ""
            yield f"metric.{key}", f"{metric[key]!r} is not one of {', '.join(allowed)}{quoted}"
    if "target" in metric and not is_number(metric["target"]):
        yield "metric.target", f"must be a number, not {metric['target']!r}"


def _parameters_problems(parameters: object, method: object) -> Iterator[Problem]:
    if not isinstance(parameters, Mapping) or not parameters:
        yield "parameters", "must be a mapping with at least one parameter"
        return
    for name, parameter in parameters.items():
        key = f"parameters.{name}"
        if not PARAMETER_NAME.fullmatch(str(name)):
            yield key, "a name has letters, digits, '_', '.' and '-' only, and starts with a letter or '_'"
        problem = parameter_problem(parameter)
        if problem is not None:
            yield ".".join(filter(None, (key, problem[0]))), problem[1]
        elif method == "grid" and distribution_of(parameter) not in GRID:
            yield key, f"a grid takes {', '.join(GRID)}, not {distribution_of(parameter)}"


def _early_terminate_problems(stop: object) -> Iterator[Problem]:
    if not isinstance(stop, Mapping) or stop.get("type") != "hyperband":
        yield "early_terminate.type", "W&B knows hyperband only"
        return
    for key in stop:
        if key not in HYPERBAND_KEYS:
            yield f"early_terminate.{key}", f"W&B knows no such key; it knows {', '.join(HYPERBAND_KEYS)}"
    if "min_iter" not in stop and not {"max_iter", "s"} <= set(stop):
        yield "early_terminate", "needs min_iter, or max_iter and s"
    for key in ("min_iter", "max_iter"):
        if key in stop and not (is_integer(stop[key]) and stop[key] >= 1):
            yield f"early_terminate.{key}", f"must be an integer of 1 or more, not {stop[key]!r}"
    if "s" in stop and not is_number(stop["s"]):
        yield "early_terminate.s", f"must be a number, not {stop['s']!r}"
    if "eta" in stop and not (is_number(stop["eta"]) and stop["eta"] > 1):
        yield "early_terminate.eta", f"must be a number above 1, not {stop['eta']!r}"
    if "strict" in stop and not isinstance(stop["strict"], bool):
        yield "early_terminate.strict", f"must be true or false, not {stop['strict']!r}"
