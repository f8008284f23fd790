"""The parity ledger: one row per variant, with figures, a verdict, and the gate that decided it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from export.parity.task_scores import points

DEFAULT_GATES = Path(__file__).parent / "gates.yaml"
OK, FAILED, NOT_RUN, DROPPED = "ok", "FAILED", "NOT RUN", "DROPPED"
OPTIONAL_GATES = (
    "compressed",
    "compressed-package",
)  # of smaller weights; a variant that misses its gate is left out
LIMITS = ("cosine_min", "flip_rate_max", "difference_max", "points_lost_max")

Floats = NDArray[np.float32]
Gates = dict[str, dict[str, float]]


@dataclass
class Row:
    """One variant of the model.

    Attributes:
        variant: Its name, which `--skip` takes.
        how: What was computed, and where.
        gate: The set of limits in the gates file; empty for rows without one.
        status: ``ok``, ``FAILED``, ``NOT RUN`` or ``DROPPED``.
        note: The reason when it is not ``ok``, or what was not judged.
        frames: Number of frames.
        figures: Differences from the reference.
        tasks: Task metrics of this variant.
        reference_tasks: Those of the reference on the same frames.
    """

    variant: str
    how: str
    gate: str = ""
    status: str = NOT_RUN
    note: str = ""
    frames: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, float] = field(default_factory=dict)
    reference_tasks: dict[str, float] = field(default_factory=dict)

    @property
    def points_lost(self) -> float | None:
        """The largest loss in a task metric, in points of 100; None when none was scored."""
        losses = [
            points(name.split("/")[0], self.reference_tasks[name]) - points(name.split("/")[0], value)
            for name, value in self.tasks.items()
            if name in self.reference_tasks
        ]
        return max(losses, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return primitives."""
        return {**asdict(self), "points_lost": self.points_lost}


def embedding_figures(reference: Floats, embeddings: Floats) -> dict[str, float]:
    """Compare embeddings [N, D] with the reference's: cosines and element-wise differences, in float64."""
    left, right = reference.astype(np.float64), embeddings.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosine = (left * right).sum(axis=1) / norms
    difference = np.abs(left - right)
    return {
        "cosine_min": float(cosine.min()),
        "cosine_mean": float(cosine.mean()),
        "difference_max": float(difference.max()),
        "difference_mean": float(difference.mean()),
    }


def flip_rate(reference: NDArray[np.int64], predictions: NDArray[np.int64]) -> float:
    """Return the share of top classes that changed."""
    return float((reference != predictions).mean())


def read_gates(path: str | Path | None = None) -> Gates:
    """Read the limits of every gate.

    Raises:
        FileNotFoundError: The file is absent.
        ValueError: It is not a mapping of gates to known limits.
    """
    source = DEFAULT_GATES if path is None else Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file of parity gates")
    try:
        gates = yaml.safe_load(source.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: no YAML ({' '.join(str(error).split())})") from error
    default = gates if path is None else read_gates()
    if not isinstance(gates, dict) or set(gates) != set(default):
        raise ValueError(f"{source}: expected the gates {sorted(default)}")
    for name, limits in gates.items():
        values = limits if isinstance(limits, dict) else {str(limits): None}
        unknown = sorted(set(values) - set(LIMITS))
        if unknown or not all(isinstance(value, int | float) for value in values.values()):
            raise ValueError(f"{source}: gate {name} takes numbers for {LIMITS}; unknown: {unknown}")
    return {name: {key: float(value) for key, value in limits.items()} for name, limits in gates.items()}


def judge(row: Row, gates: Gates, *, trained: bool) -> None:
    """Set a measured row's status.

    Args:
        row: The row; its `figures` and `tasks` are complete.
        gates: The limits.
        trained: Whether the weights are trained. Task metrics of random weights are noise and are not judged.
    """
    misses = []
    judged = 0
    for name, limit in gates[row.gate].items():
        figure = (
            row.points_lost
            if name == "points_lost_max"
            else row.figures.get(name.replace("flip_rate_max", "flip_rate"))
        )
        if name == "points_lost_max" and not trained:
            row.note = "task metrics not judged: the weights are random"
            continue
        if figure is None:
            misses.append(f"{name} was not measured")
            continue
        judged += 1
        missed = figure < limit if name.endswith("_min") else figure > limit
        if not np.isfinite(figure) or missed:
            misses.append(f"{name.removesuffix('_max').removesuffix('_min')} {figure:.6g}, limit {limit:g}")
    row.status = FAILED if misses else (OK if judged else NOT_RUN)
    row.note = "; ".join(misses) or row.note


def coreml_rows(artifacts: Mapping[str, dict[str, Any]], gates: Gates, *, trained: bool) -> list[Row]:
    """Return a row for each Core ML package: ``FAILED`` when its inspection found a problem, else ``NOT RUN``.

    Core ML predicts only on Apple's systems; `verify_coreml.py` finishes the rows on a Mac, with the limits that are
    written into the package's entry as ``on_device``.

    Args:
        artifacts: The manifest's artifacts, with the ``gate`` and ``inspection`` of each package.
        gates: The limits.
        trained: Whether the weights are trained. The classes of random weights nearly tie and flip by chance.
    """
    rows = []
    for name, entry in artifacts.items():
        if entry["kind"] != "coreml":
            continue
        limits = gates[entry["gate"]]
        entry["on_device"] = {
            key: value for key, value in limits.items() if trained or key != "flip_rate_max"
        }
        row = Row(
            name, "Core ML", entry["gate"], note="run verify_coreml.py on a Mac; it fills in parity.json"
        )
        if entry["inspection"]["problems"]:
            row.status, row.note = FAILED, "; ".join(entry["inspection"]["problems"])
        elif entry["inspection"]["not_on_neural_engine"]:
            unknown = ", ".join(entry["inspection"]["not_on_neural_engine"])
            row.note += f"; not known to run on the Neural Engine: {unknown}"
        rows.append(row)
    return rows


def failures(rows: list[Row]) -> str:
    """Return one line that names every failed row, empty when there is none."""
    return "; ".join(f"row {row.variant}: {row.note}" for row in rows if row.status == FAILED)


def ledger(rows: list[Row], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of parity.json."""
    return {**facts, "rows": [row.to_dict() for row in rows]}


COLUMNS = {
    "frames": lambda row: str(row.frames) if row.frames else "-",
    "cosine min": lambda row: _number(row.figures.get("cosine_min"), ".6f"),
    "diff max": lambda row: _number(row.figures.get("difference_max"), ".1e"),
    "diff mean": lambda row: _number(row.figures.get("difference_mean"), ".1e"),
    "flips": lambda row: _number(row.figures.get("flip_rate"), ".2%"),
    "planes F1": lambda row: _number(row.tasks.get("planes/f1"), ".4f"),
    "subplanes F1": lambda row: _number(row.tasks.get("subplanes/f1"), ".4f"),
    "HC18 %": lambda row: _number(row.tasks.get("hc18/validity"), ".2f"),
}


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def print_ledger(rows: list[Row], title: str) -> None:
    """Print the ledger as a table."""
    table = Table(title=title)
    for name in ("variant", "status", *COLUMNS, "note"):
        table.add_column(name, overflow="fold", justify="left" if name in ("variant", "note") else "right")
    for row in rows:
        table.add_row(row.variant, row.status, *(show(row) for show in COLUMNS.values()), row.note)
    Console(width=170).print(table)


def markdown_ledger(rows: list[Row]) -> str:
    """Return the ledger as a Markdown table."""
    head = ["variant", "status", *COLUMNS, "note"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [
        f"| {' | '.join([row.variant, row.status, *(show(row) for show in COLUMNS.values()), row.note])} |"
        for row in rows
    ]
    return "\n".join(lines)
