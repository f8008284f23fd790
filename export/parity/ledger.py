"""The parity ledger: one row per variant, with figures, a verdict, and the gate that decided it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.parity.verify_coreml import verdict
from metrics.benchmarks import BENCHMARKS
from models.files import read_settings

DEFAULT_GATES = Path(__file__).parent / "gates.yaml"
OK, FAILED, NOT_RUN, DROPPED = "ok", "FAILED", "NOT RUN", "DROPPED"
OPTIONAL_GATES = ("compressed", "compressed-package")  # of smaller weights: dropped when missed
ON_A_MAC = "run verify_coreml.py on a Mac; it fills in parity.json"

Floats = NDArray[np.float32]
Limit = Literal["cosine_min", "flip_rate_max", "difference_max", "age_days_max", "points_lost_max"]
NOISE = ("flip_rate_max", "age_days_max")  # of random weights: their answers nearly tie
Gates = dict[str, dict[Limit, float]]


class GateFailedError(Exception):
    """An exact variant missed its gate."""


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
        tasks: Task metrics of this variant: ``{"planes/f1": 0.91, ...}``.
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
            100 * (self.reference_tasks[name] - value) / BENCHMARKS[name.split("/")[0]].scale
            for name, value in self.tasks.items()
            if name in self.reference_tasks
        ]
        return max(losses, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return primitives, for parity.json."""
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


def read_gates(path: str | Path | None = None) -> Gates:
    """Read the limits of every gate.

    Raises:
        FileNotFoundError: The file is absent.
        ValueError: It is not a mapping of the known gates to known limits.
    """
    gates = read_settings(Path(path or DEFAULT_GATES), Gates, str(DEFAULT_GATES))
    if path is not None and gates.keys() != (known := read_gates()).keys():
        missing, unknown = (
            ", ".join(sorted(names)) or "none" for names in (known.keys() - gates, gates.keys() - known)
        )
        raise ValueError(
            f"{path}: gates that are missing: {missing}; unknown: {unknown}; edit a copy of {DEFAULT_GATES}"
        )
    if empty := sorted(name for name, limits in gates.items() if not limits):
        raise ValueError(f"{path}: gates without a limit: {', '.join(empty)}; a row cannot pass without one")
    return gates


def judge(row: Row, gates: Gates, *, trained: bool) -> None:
    """Set a measured row's status; task metrics of random weights (not `trained`) are noise and are not judged."""
    limits: dict[str, float] = {
        name: limit for name, limit in gates[row.gate].items() if trained or name != "points_lost_max"
    }
    found = row.figures | ({} if row.points_lost is None else {"points_lost_max": row.points_lost})
    result = verdict(found, limits)
    row.status = result["status"]
    if row.status == FAILED:
        row.note = result["note"]
    elif limits != gates[row.gate]:
        row.note = "task metrics not judged: the weights are random"


def few_frames(row: Row, fewest: int, gates: Gates) -> str:
    """Return a note where one frame of a benchmark weighs more than a row's gate allows, else an empty text.

    Args:
        row: A row with a gate.
        fewest: Number of frames of the benchmark that has fewest.
        gates: The limits.
    """
    points = 100 / fewest  # of a share of frames; a class of few frames moves F1 by more
    if points <= gates[row.gate].get("points_lost_max", 100):
        return ""
    return (
        f"; one of {fewest} frames weighs {points:.2g} points: judge by more (larger --frames, --split=all)"
    )


def coreml_rows(artifacts: Mapping[str, dict[str, Any]], gates: Gates, *, trained: bool) -> list[Row]:
    """Return a row for each Core ML package: ``FAILED`` when its inspection found a problem, else ``NOT RUN``.

    Core ML predicts only on Apple's systems; `verify_coreml.py` finishes the rows on a Mac, with the limits that are
    written into the package's entry of the manifest as ``on_device``; without `NOISE` unless `trained`.
    """
    rows = []
    for name, entry in artifacts.items():
        if entry["kind"] != "coreml":
            continue
        limits, inspection = gates[entry["gate"]], entry["inspection"]
        entry["on_device"] = {key: value for key, value in limits.items() if trained or key not in NOISE}
        row = Row(name, "Core ML", entry["gate"], note=ON_A_MAC)
        if inspection["problems"]:
            row.status, row.note = FAILED, "; ".join(inspection["problems"])
        elif inspection["not_on_neural_engine"]:
            row.note += (
                f"; not known to run on the Neural Engine: {', '.join(inspection['not_on_neural_engine'])}"
            )
        rows.append(row)
    return rows


def failures(rows: Sequence[Row]) -> str:
    """Return one line that names every failed row, empty when there is none."""
    return "; ".join(f"row {row.variant}: {row.note}" for row in rows if row.status == FAILED)


def _merged(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with those that did not run for one reason as one row."""
    merged: dict[tuple[bool, str], Row] = {}
    for row in rows:
        key = (row.status == NOT_RUN, row.note if row.status == NOT_RUN else row.variant)
        first = merged.get(key)
        merged[key] = row if first is None else replace(first, variant=f"{first.variant}, {row.variant}")
    return [*merged.values()]


def markdown_ledger(rows: Sequence[Row]) -> str:
    """Return the ledger as a Markdown table: columns of figures, and of each benchmark's headline.

    ``*`` marks rows of other frames than the reference's, the first row.
    """
    columns = {"cosine min": ("cosine_min", ".6f"), "diff max": ("difference_max", ".1e"),
               "diff mean": ("difference_mean", ".1e"), "flip rate": ("flip_rate", ".2%")}  # fmt: skip
    for one in BENCHMARKS.values():
        columns[one.title] = (f"{one.name}/{one.headline}", ".4f" if one.scale == 1 else ".2f")
    table = []
    for row in _merged(rows):
        values = {**row.figures, **row.tasks}
        cells = [format(values[name], style) if name in values else "-" for name, style in columns.values()]
        frames = f"{row.frames}{'' if row.frames == rows[0].frames else ' *'}" if row.frames else "-"
        table.append([row.variant, row.status, frames, *cells, row.note])
    return markdown_table(["variant", "status", "frames", *columns, "note"], table)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right; short rows are filled with empty cells."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join([*line, *[''] * (len(head) - len(line))])} |" for line in lines)
