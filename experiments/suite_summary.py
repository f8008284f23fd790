"""Mean and deviation over seeds of every experiment of a suite."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.result_rows import Row
from experiments.suites import F1, TITLES, VALIDITY
from metrics.biometry import constant_age_title
from metrics.composite import composite_score
from metrics.names import CONSTANT, HC18, HEADLINE, PLANES, RANDOM, STUDENT, SUBPLANES, TEACHER, final_name

COLUMNS = {VALIDITY: "HC18 validity, %", PLANES: "5-plane F1", SUBPLANES: "sub-plane F1", F1: "8-class F1"}


@dataclass(frozen=True)
class Score:
    """Scores of one column.

    Attributes:
        values: One a run.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the runs."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample deviation over the runs; None for one run, or where all runs share one model."""
        return statistics.stdev(self.values) if len(set(self.values)) > 1 else None


@dataclass(frozen=True)
class Summary:
    """One line of the table.

    Attributes:
        name: Experiment, "teacher", "random" or "constant".
        title: What the table calls it.
        runs: Number of runs.
        scores: Column -> scores; benchmarks that the data lack have none.
    """

    name: str
    title: str
    runs: int
    scores: dict[str, Score] = field(default_factory=dict)


def columns_of(row: Row, model: str) -> dict[str, float]:
    """Return a model's score in every column that its run has.

    Args:
        row: A row of the results.
        model: "student", "teacher", "random" or "constant".
    """
    metrics = row["metrics"]
    named = {name: metrics.get(final_name(model, name, key)) for name, key in HEADLINE.items()}
    found = {name: float(value) for name, value in named.items() if value is not None}
    columns = {name: value for name, value in found.items() if name != HC18}
    if len(columns) == 2:
        columns[F1] = composite_score(columns)  # five and three classes, weighted by their numbers
    return columns | ({VALIDITY: found[HC18]} if HC18 in found else {})


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Return a table's lines: teacher, experiments in the paper's order, random weights, constant age."""
    experiments = sorted({row["experiment"] for row in rows}, key=[*TITLES].index)
    lines = [_summary(TEACHER, rows, TEACHER)]
    lines += [_summary(name, [r for r in rows if r["experiment"] == name], STUDENT) for name in experiments]
    lines.append(_summary(RANDOM, rows, RANDOM))
    lines.append(_summary(CONSTANT, rows, CONSTANT))
    return [line for line in lines if line.scores]


def _summary(name: str, rows: Sequence[Row], model: str) -> Summary:
    found = [columns for row in rows if (columns := columns_of(row, model))]
    scores = {
        column: Score(tuple(columns[column] for columns in found if column in columns))
        for column in COLUMNS
        if any(column in columns for columns in found)
    }
    ages = {row["metrics"].get(final_name(CONSTANT, HC18, "age_days")) for row in rows} - {None}
    title = (
        " or ".join(map(constant_age_title, sorted(ages))).capitalize() if name == CONSTANT else TITLES[name]
    )
    return Summary(name, title, len(found), scores)
