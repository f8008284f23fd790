"""Differences between the methods of a suite over seeds and patients, and their growth with the capacity gap."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from experiments.outcomes import Outcomes, contrast_outcomes
from experiments.paper import COMPARISONS, STUDENTS, TEACHER_IMAGE_PARAMETERS, TITLES
from experiments.suites.result_rows import ResultRow
from metrics.benchmarks import BENCHMARKS
from metrics.bootstrap import Comparison, holm
from metrics.names import formatted, with_sign

# Columns of the printed table, all texts.
COMPARED, SCORE, SIZE, DIFFERENCE, INTERVAL, P, DETECTABLE = (
    "compared", "score", "seeds x patients", "difference", "95 % interval", "p (Holm)", "smallest detectable"
)  # fmt: skip
OVER = "{} over {}"
Terms = list[
    tuple[float, tuple[str, ...]]
]  # factor and method: its experiment and, where they differ, student
Family = list[tuple[dict[str, str], Terms]]  # names of the columns that identify a comparison, and its terms
GROWTH = "growth"  # in place of a student: the smallest student's gain minus the largest's


def differences(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Return the differences between methods, as far as two seeds or more of both are among the rows of one table.

    Returns:
        Columns ``reference``, ``experiment``, ``benchmark``, those of `Comparison`, and ``holm``, the p value corrected
        over all differences from one reference.
    """
    parts = []
    for reference, methods in COMPARISONS.items():
        family: Family = [
            ({"reference": reference, "experiment": name}, [(1, (name,)), (-1, (reference,))])
            for name in methods
        ]
        parts.append(_compared(rows, family))
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
    family: Family = []
    for reference in ("static-kd", "no-kd"):
        gains: dict[str, Terms]
        gains = {student: [(1, ("srkd", student)), (-1, (reference, student))] for student in STUDENTS}
        gains[GROWTH] = gains[smallest] + [(-factor, method) for factor, method in gains[largest]]
        family += [({"reference": reference, "student": student}, gain) for student, gain in gains.items()]
    return _compared(rows, family)


def _by_seed(
    rows: Sequence[ResultRow], benchmark: str, experiment: str, student: str | None = None
) -> dict[int, Outcomes]:
    return {
        row["seed"]: row["outcomes"][benchmark]
        for row in rows
        if row["experiment"] == experiment and student in (None, row.get("student", ""))
        if benchmark in row.get("outcomes", {})
    }


def _compared(rows: Sequence[ResultRow], family: Family) -> pd.DataFrame:
    """Compare the methods of a family with every benchmark, and correct the p values."""
    found = []
    for benchmark in sorted(BENCHMARKS.values(), key=lambda one: one.kind):
        for names, terms in family:
            known = [(factor, _by_seed(rows, benchmark.name, *method)) for factor, method in terms]
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
        value, low, high = (with_sign(row[key], digits) for key in ("value", "low", "high"))
        title = OVER.format(TITLES[row.get("experiment", "srkd")], TITLES[row["reference"]])
        if "student" in row:
            largest, *_, smallest = map(student_title, STUDENTS)
            size = row["student"]
            title += f", from {largest} to {smallest}" if size == GROWTH else f", {student_title(size)}"
        lines.append(
            {
                COMPARED: title, SCORE: benchmark.title, SIZE: f"{row['seeds']} x {row['patients']}", DIFFERENCE: value,
                INTERVAL: f"{low} to {high}", P: "< 0.001" if row["holm"] < 0.001 else f"{row['holm']:.3f}",
                DETECTABLE: formatted(row["detectable"], digits, "none"),
            }
        )  # fmt: skip
    return pd.DataFrame(lines)
