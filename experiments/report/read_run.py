"""Read a finished run's folder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from metrics.benchmarks import BENCHMARKS, Benchmark, register_saved
from metrics.names import STUDENT, TEACHER, final_composite_name, final_name, model_titles

Details = dict[str, Any]
EVALUATE = "evaluate the checkpoint again (make evaluate)"
WITHOUT = "move it away for a report without it"


@dataclass(frozen=True)
class FinishedRun:
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
    history: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    config: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The run as ``experiment/run``."""
        return f"{self.experiment}/{self.folder.name}"

    @property
    def experiment(self) -> str:
        """Name of the experiment, such as ``srkd``."""
        return str(self.record["experiment"])

    @property
    def titles(self) -> dict[str, str]:
        """Titles of models and baselines; the scored model is "teacher" where one was trained or evaluated alone."""
        return model_titles(self.record["metrics"]) | ({STUDENT: TEACHER} if self.scores_teacher else {})

    @property
    def scores_teacher(self) -> bool:
        """Whether the scored model is a teacher, trained or evaluated alone, in the student's place."""
        return self.record.get("scored") == TEACHER

    @property
    def is_phantom(self) -> bool:
        """Whether all images are simulated; those of a benchmark of one's own are not."""
        _, _, name = str(self.config.get("data", {}).get("class_path")).rpartition(".")
        return name == "PhantomDataModule" and not self.record.get("benchmarks")

    def benchmarks(self) -> list[Benchmark]:
        """Return the benchmarks that the student was scored on, in the order of the report."""
        scored = self.record["details"].get(STUDENT, {})
        return [benchmark for name, benchmark in BENCHMARKS.items() if name in scored]

    def split(self, benchmark: str) -> str:
        """Return the split of a benchmark that the student was scored on."""
        return str(self.details(STUDENT, benchmark).get("split", "test"))

    def splits(self) -> list[str]:
        """Return the splits that the student was scored on, sorted."""
        return sorted({self.split(one.name) for one in self.benchmarks()})

    def details(self, model: str, benchmark: str) -> Details:
        """Return one evaluation on test patients, empty where it was not made."""
        found: Details = self.record["details"].get(model, {}).get(benchmark) or {}
        return found

    def metric(self, model: str, benchmark: str, key: str) -> float | None:
        """Return one number of the final evaluation, None where it was not made or is undefined."""
        value = self.record["metrics"].get(final_name(model, benchmark, key))
        return None if value is None else float(value)

    def headline(self, model: str) -> dict[str, float]:
        """Return benchmark -> headline score of a model."""
        values = {b.name: self.metric(model, b.name, b.headline) for b in BENCHMARKS.values()}
        return {name: value for name, value in values.items() if value is not None}

    def composite(self, model: str) -> float | None:
        """Return the composite score of a model on test patients, None without scores."""
        value: float | None = self.record["metrics"].get(final_composite_name(model))
        return value


def read_run(folder: str | Path) -> FinishedRun:
    """Read ``outputs/<experiment>/<run>``, named by the folder or a file in it.

    Raises:
        FileNotFoundError: The folder is absent, or holds no ``results.json``: the run has not finished.
        ValueError: A file is cut short or damaged, or ``results.json`` lacks a key.
    """
    path = Path(folder).resolve()
    path = path.parent if path.is_file() else path
    if not path.is_dir():
        raise FileNotFoundError(f"RUN={folder}: no such folder; runs are in outputs/EXP/RUN")
    record = read_file(path / "results.json", json.loads, EVALUATE)
    if record is None:
        raise FileNotFoundError(f"RUN={folder}: no results.json; it is written when a run finishes")
    missing = [key for key in ("experiment", "data", "metrics", "details") if key not in record]
    if missing:
        raise ValueError(f"{path / 'results.json'}: lacks {missing}; {EVALUATE}")
    register_saved(record.get("benchmarks", []))
    history = read_file(path / "metrics.csv", _table, WITHOUT)
    return FinishedRun(
        path,
        record,
        pd.DataFrame() if history is None else history,
        read_file(path / "config.yaml", yaml.safe_load, WITHOUT) or {},
        read_file(path / "export/parity.json", json.loads, "export again (make export)"),
        read_file(path / "latency/latency.json", json.loads, "time it again (make latency)"),
    )


def _table(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text)) if text else pd.DataFrame()


def read_file(path: Path, parse: Callable[[str], Any], remedy: str) -> Any:
    """Return the content of a run's file, a mapping or a table; None where there is no file.

    Raises:
        ValueError: It is damaged; the line ends with `remedy`.
    """
    if not path.is_file():
        return None
    try:
        content = parse(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict | pd.DataFrame):
            raise ValueError("not a mapping")
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())}); {remedy}") from None
    return content
