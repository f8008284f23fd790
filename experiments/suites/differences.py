"""Differences between the methods of a suite over seeds and patients, and their growth with the capacity gap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from experiments.outcomes import BY_SEED, Outcomes, contrast_outcomes
from experiments.paper import COMPARISONS, STUDENTS, TEACHER_IMAGE_PARAMETERS, TITLES
from experiments.suites.result_rows import ResultRow
from metrics.benchmarks import BENCHMARKS
from metrics.bootstrap import Comparison, holm

# Columns of the printed table, all texts.
COMPARED, SCORE, SIZE, DIFFERENCE, INTERVAL, P, DETECTABLE = (
    "compared", "score", "seeds x patients", "difference", "95 % interval", "p (Holm)", "smallest detectable"
)  # fmt: skip
OVER = "{} over {}"
GROWTH = "growth"  # in place of a student: the smallest student's gain minus the largest's


def differences(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Return the differences between methods, as far as two seeds or more of both are among the rows of one table.

    Returns:
        Columns ``reference``, ``experiment``, ``benchmark``, those of `Comparison`, and ``holm``, the p value corrected
        over all differences from one reference.
    """
    parts = []
    for reference, methods in COMPARISONS.items():
        pairs = [
            ({"reference": reference, "experiment": name}, [(1, name), (-1, reference)]) for name in methods
        ]
        parts.append(_compared(pairs, lambda name, benchmark: _by_seed(rows, name, benchmark)))
    return pd.concat(parts, ignore_index=True)


def capacity(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Return SRKD's gains with each student of `STUDENTS`, and how much larger they are with the smallest.

    Args:
        rows: Rows that differ only in experiment, seed and student; empty for no gains at all.

    Returns:
        Columns ``reference``, ``student`` (empty for the preset's own, or `GROWTH`), ``benchmark``, those of
        `Comparison`, and ``holm``, corrected over all of them.
    """
    largest, *_, smallest = STUDENTS
    terms: list[tuple[dict[str, Any], list[tuple[float, Any]]]] = []
    for reference in ("static-kd", "no-kd"):
        gains: dict[str, list[tuple[float, Any]]]
        gains = {student: [(1, ("srkd", student)), (-1, (reference, student))] for student in STUDENTS}
        terms += [({"reference": reference, "student": student}, gain) for student, gain in gains.items()]
        growth = gains[smallest] + [(-factor, method) for factor, method in gains[largest]]
        terms.append(({"reference": reference, "student": GROWTH}, growth))

    def outcomes(method: tuple[str, str], benchmark: str) -> dict[int, Outcomes]:
        name, student = method
        return _by_seed([row for row in rows if row.get("student", "") == student], name, benchmark)

    return _compared(terms, outcomes)


def _by_seed(rows: Sequence[ResultRow], experiment: str, benchmark: str) -> dict[int, Outcomes]:
    return {
        row["seed"]: row["outcomes"][benchmark]
        for row in rows
        if row["experiment"] == experiment and benchmark in row.get("outcomes", {})
    }


def _compared(
    family: Sequence[tuple[dict[str, Any], Sequence[tuple[float, Any]]]],
    outcomes: Callable[[Any, str], BY_SEED],
) -> pd.DataFrame:
    """Compare the methods of a family with every benchmark, and correct the p values."""
    found = []
    for benchmark in sorted(BENCHMARKS.values(), key=lambda one: one.kind):
        for names, terms in family:
            known = [(factor, outcomes(method, benchmark.name)) for factor, method in terms]
            one = contrast_outcomes(*known) if all(by_seed for _, by_seed in known) else None
            if one is not None and one.seeds > 1:
                found.append(names | {"benchmark": benchmark.name} | one._asdict())
    table = pd.DataFrame(found, columns=[*family[0][0], "benchmark", *Comparison._fields])
    table["holm"] = holm(table["p"])
    return table


def student_title(student: str) -> str:
    """Return the size of the image tower of a student of `STUDENTS`: ``1/30 of the teacher``."""
    return f"1/{TEACHER_IMAGE_PARAMETERS / STUDENTS[student]:.0f} of the teacher"


def texts(found: pd.DataFrame) -> pd.DataFrame:
    """Return `differences` or the gains of `capacity` as texts, a line a difference."""
    lines = []
    for row in found.to_dict("records"):
        benchmark = BENCHMARKS[row["benchmark"]]
        digits = benchmark.digits
        value, low, high = (f"{row[key]:+.{digits}f}" for key in ("value", "low", "high"))
        title = OVER.format(TITLES[row.get("experiment", "srkd")], TITLES[row["reference"]])
        if "student" in row:
            largest, *_, smallest = map(student_title, STUDENTS)
            size = row["student"]
            title += f", from {largest} to {smallest}" if size == GROWTH else f", {student_title(size)}"
        lines.append(
            {
                COMPARED: title, SCORE: benchmark.title, SIZE: f"{row['seeds']} x {row['patients']}", DIFFERENCE: value,
                INTERVAL: f"{low} to {high}", P: "< 0.001" if row["holm"] < 0.001 else f"{row['holm']:.3f}",
                DETECTABLE: f"{row['detectable']:.{digits}f}",
            }
        )  # fmt: skip
    return pd.DataFrame(lines)
