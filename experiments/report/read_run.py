"""A finished run as the report sees it: what its folder holds, read once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments.strict_json import without_nan
from metrics.composite import composite_score
from metrics.names import HC18, HEADLINE, PLANES, STUDENT, SUBPLANES, final_name

Details = dict[str, Any]
PARITY_PLACES = ("export/parity.json", "parity.json")
WITHOUT = "move it away for a report without it"
LATENCY_PLACES = ("latency.json", "latency/latency.json", "export/latency.json")


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: ``outputs/<experiment>/<run>``.
        record: Content of ``results.json``.
        history: Content of ``metrics.csv``, a row a log entry; empty for an evaluation without training.
        config: Content of the resolved ``config.yaml``; empty where there is none.
        parity: Content of the export's ``parity.json``, None without an export.
        latency: Content of ``latency.json``, None where nothing was timed.
    """

    folder: Path
    record: dict[str, Any]
    history: pd.DataFrame = field(repr=False)
    config: dict[str, Any]
    parity: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The run as ``experiment/run``."""
        return f"{self.record['experiment']}/{self.folder.name}"

    @property
    def experiment(self) -> str:
        """Name of the experiment, such as ``srkd``."""
        return str(self.record["experiment"])

    @property
    def is_phantom(self) -> bool:
        """Whether the images are simulated."""
        return "Phantom" in str(self.config.get("data", {}).get("class_path", self.record["data"].title()))

    def models(self) -> list[str]:
        """Return the models that were scored, the student first."""
        return [name for name in ("student", "teacher", "random") if self.benchmarks(name)]

    def benchmarks(self, model: str = STUDENT) -> list[str]:
        """Return the benchmarks that a model was scored on, in the order of the report."""
        return [name for name in HEADLINE if name in self.record["details"].get(model, {})]

    def details(self, model: str, benchmark: str) -> Details | None:
        """Return one evaluation on test patients, None where it was not made."""
        found: Details | None = self.record["details"].get(model, {}).get(benchmark)
        return found

    def metric(self, model: str, benchmark: str, key: str) -> float | None:
        """Return one number of the final evaluation, None where it was not made or is not a number."""
        value = self.record["metrics"].get(final_name(model, benchmark, key))
        return None if value is None else float(value)

    def headline(self, model: str) -> dict[str, float]:
        """Return benchmark -> headline score of a model."""
        values = {name: self.metric(model, name, key) for name, key in HEADLINE.items()}
        return {name: value for name, value in values.items() if value is not None}

    def composite(self, model: str) -> float | None:
        """Return the composite score of a model on test patients, None without scores."""
        scores = self.headline(model)
        return composite_score(scores) if scores else None

    def eight_class_f1(self, model: str) -> float | None:
        """Return the mean F1 over five planes and three sub-planes, the paper's class F1."""
        scores = {name: value for name, value in self.headline(model).items() if name != HC18}
        return composite_score(scores) if set(scores) == {PLANES, SUBPLANES} else None


def _read_json(folder: Path, places: tuple[str, ...]) -> dict[str, Any] | None:
    for place in places:
        path = folder / place
        if path.is_file():
            return _mapping(path, json.loads, "write it again")
    return None


def _mapping(path: Path, parse: Callable[[str], Any], remedy: str) -> dict[str, Any]:
    """Read a file that holds a mapping.

    Raises:
        ValueError: It is cut short, damaged or holds something else; the message names it and the remedy.
    """
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: damaged ({reason}); {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: damaged (holds no settings or numbers); {remedy}")
    return content


def _history(path: Path) -> pd.DataFrame:
    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame()
    try:
        return pd.read_csv(path)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: damaged ({reason}); {WITHOUT}") from None


def read_run(folder: str | Path) -> Run:
    """Read a run's folder.

    Args:
        folder: ``outputs/<experiment>/<run>``, or a file in it.

    Returns:
        The run.

    Raises:
        FileNotFoundError: The folder is absent, or holds no ``results.json``: the run has not finished.
        ValueError: A file is cut short or damaged, or ``results.json`` is no result of ours.
    """
    path = Path(folder)
    if path.is_file():
        path = path.parent
    path = path.resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"RUN={folder}: no such folder; runs lie in outputs/EXP/RUN")
    record = _read_json(path, ("results.json",))
    if record is None:
        raise FileNotFoundError(f"RUN={folder}: no results.json; it is written when a run finishes")
    lacking = [key for key in ("experiment", "data", "metrics", "details") if key not in record]
    if lacking:
        raise ValueError(
            f"{path / 'results.json'}: lacks {lacking}; evaluate the checkpoint again (make evaluate)"
        )
    config_file = path / "config.yaml"
    config = _mapping(config_file, yaml.safe_load, WITHOUT) if config_file.is_file() else {}
    history = _history(path / "metrics.csv")
    record = dict(without_nan(record))  # earlier versions wrote NaN
    return Run(
        path, record, history, config, _read_json(path, PARITY_PLACES), _read_json(path, LATENCY_PLACES)
    )
