"""Read a finished run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from metrics.names import HEADLINE, STUDENT, final_composite_name, final_name

Details = dict[str, Any]
WITHOUT = "move it away for a report without it"


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: ``outputs/<experiment>/<run>``.
        record: Content of ``results.json``.
        history: Content of ``metrics.csv``, a row a log entry; empty for an evaluation without training.
        config: Content of the resolved ``config.yaml``; empty where there is none.
        parity: Content of ``export/parity.json``, None without an export.
        latency: Content of ``latency/latency.json``, None where nothing was timed.
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

    def benchmarks(self, model: str = STUDENT) -> list[str]:
        """Return the benchmarks that a model was scored on, in the order of the report."""
        return [name for name in HEADLINE if name in self.record["details"].get(model, {})]

    def details(self, model: str, benchmark: str) -> Details | None:
        """Return one evaluation on test patients, None where it was not made."""
        found: Details | None = self.record["details"].get(model, {}).get(benchmark)
        return found

    def metric(self, model: str, benchmark: str, key: str) -> float | None:
        """Return one number of the final evaluation, None where it was not made or is undefined."""
        value = self.record["metrics"].get(final_name(model, benchmark, key))
        return None if value is None else float(value)

    def headline(self, model: str) -> dict[str, float]:
        """Return benchmark -> headline score of a model."""
        values = {name: self.metric(model, name, key) for name, key in HEADLINE.items()}
        return {name: value for name, value in values.items() if value is not None}

    def composite(self, model: str) -> float | None:
        """Return the composite score of a model on test patients, None without scores."""
        value: float | None = self.record["metrics"].get(final_composite_name(model))
        return value


def read_run(folder: str | Path) -> Run:
    """Read a run's folder.

    Args:
        folder: ``outputs/<experiment>/<run>``, or a file in it.

    Returns:
        The run.

    Raises:
        FileNotFoundError: The folder is absent, or holds no ``results.json``: the run has not finished.
        ValueError: A file is cut short or damaged, or ``results.json`` lacks a key.
    """
    path = Path(folder).resolve()
    path = path.parent if path.is_file() else path
    if not path.is_dir():
        raise FileNotFoundError(f"RUN={folder}: no such folder; runs are in outputs/EXP/RUN")
    record = _mapping(path / "results.json", json.loads, "evaluate the checkpoint again (make evaluate)")
    if record is None:
        raise FileNotFoundError(f"RUN={folder}: no results.json; it is written when a run finishes")
    lacking = [key for key in ("experiment", "data", "metrics", "details") if key not in record]
    if lacking:
        raise ValueError(
            f"{path / 'results.json'}: lacks {lacking}; evaluate the checkpoint again (make evaluate)"
        )
    return Run(
        path,
        record,
        _history(path / "metrics.csv"),
        _mapping(path / "config.yaml", yaml.safe_load, WITHOUT) or {},
        _mapping(path / "export/parity.json", json.loads, "export again (make export)"),
        _mapping(path / "latency/latency.json", json.loads, "time it again (make latency)"),
    )


def _mapping(path: Path, parse: Callable[[str], Any], remedy: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())}); {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: damaged (not a mapping); {remedy}")
    return content


def _history(path: Path) -> pd.DataFrame:
    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame()
    try:
        return pd.read_csv(path)
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())}); {WITHOUT}") from None
