"""The report's tables of numbers, as plain rows that the page lays out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.report.paired import Difference, same_images, score_difference
from experiments.report.paper import PaperRow, paper_rows
from experiments.report.read_run import Run
from export.parity import EMULATED, FAILED, OK
from metrics.biometry import constant_age_title
from metrics.names import (
    CONSTANT,
    HC18,
    HEADLINE,
    PLANES,
    RANDOM,
    STUDENT,
    SUBPLANES,
    TEACHER,
    final_name,
    interval_names,
)

TITLES = {PLANES: "five-plane F1", SUBPLANES: "brain sub-plane F1", HC18: "HC18 validity, %"}
EMULATED_NOTE = "computed in torch; Core ML itself has not run"
# A package that torch computed is right so far; what Core ML makes of it is open. What never ran has no colour.
VERDICTS = {OK: "good", EMULATED: "fair", FAILED: "bad"}
MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What it says.
        note: Smaller, below it.
        tone: ``good``, ``fair``, ``bad`` or nothing.
    """

    text: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows.

    Attributes:
        caption: What it shows.
        head: Names of the columns.
        rows: The rows.
        groups: Number of a row -> title of the group that starts there.
        quiet: Numbers of rows that are only for comparison.
    """

    caption: str
    head: list[str]
    rows: list[list[Cell]]
    groups: dict[int, str]
    quiet: frozenset[int] = frozenset()


def number(value: float | None, benchmark: str) -> str:
    """Write a score: F1 with three decimals, validity in percent with one."""
    if value is None:
        return NOTHING
    return f"{value:.1f}" if benchmark == HC18 else f"{value:.3f}"


def signed(value: float, benchmark: str) -> str:
    """Write a difference of scores, with its sign and a true minus."""
    text = f"{value:+.1f}" if benchmark == HC18 else f"{value:+.3f}"
    return text.replace("-", MINUS)


def _score(run: Run, model: str, benchmark: str) -> Cell:
    return _with_interval(lambda key: run.metric(model, benchmark, key), benchmark)


def _with_interval(get: Callable[[str], float | None], benchmark: str) -> Cell:
    """Return the headline score of a benchmark, with its interval below where there is one."""
    low, high = map(get, interval_names(HEADLINE[benchmark]))
    note = "" if low is None or high is None else f"{number(low, benchmark)} to {number(high, benchmark)}"
    return Cell(number(get(HEADLINE[benchmark]), benchmark), note)


def short(value: float | None) -> Cell:
    """Return a number with three decimals, or a dash."""
    return Cell(NOTHING if value is None else f"{value:.3f}")


def _measured(run: Run, model: str, title: str, benchmarks: Sequence[str], best: bool = False) -> list[Cell]:
    count = run.record.get("parameters", {}).get(STUDENT if model == RANDOM else model)
    size = NOTHING if count is None else f"{count / 1e6:.1f} M"
    scores = [_score(run, model, benchmark) for benchmark in benchmarks]
    composite = None if model == CONSTANT else run.composite(model)
    last = Cell(
        NOTHING if composite is None else f"{composite:.3f}", "highest of the students" if best else ""
    )
    return [Cell(title), *scores, short(run.eight_class_f1(model)), last, Cell(size)]


def _baseline_title(run: Run, model: str) -> str:
    if model == CONSTANT:
        return constant_age_title(run.record["metrics"][final_name(CONSTANT, HC18, "age_days")])
    return "random weights" if model == RANDOM else model


def _paper(row: PaperRow, benchmarks: Sequence[str]) -> list[Cell]:
    known = {HC18: row.validity, SUBPLANES: row.subplanes_f1}
    scores = [Cell(number(known.get(benchmark), benchmark)) for benchmark in benchmarks]
    composite = (row.class_f1 + row.validity / 100) / 2
    return [Cell(row.title), *scores, short(row.class_f1), short(composite), Cell(row.parameters)]


def headline(runs: Sequence[Run], titles: Sequence[str]) -> Table:
    """Return every model's headline scores beside the paper's."""
    benchmarks = [name for name in HEADLINE if any(name in run.benchmarks() for run in runs)]
    scores = [run.composite(STUDENT) or 0.0 for run in runs]
    rows = [
        _measured(run, STUDENT, title, benchmarks, len(runs) > 1 and score == max(scores))
        for run, title, score in zip(runs, titles, scores, strict=True)
    ]
    groups = {0: "Students, measured here"}
    groups[len(rows)] = "To compare with, measured here"
    quiet = len(rows)
    for model in (TEACHER, RANDOM, CONSTANT):
        distinct = {
            tuple(run.headline(model).items()): (run, title) for run, title in zip(runs, titles, strict=True)
        }
        distinct.pop((), None)
        for run, title in distinct.values():
            word = _baseline_title(run, model)
            rows.append(
                _measured(run, model, word if len(distinct) == 1 else f"{word} of {title}", benchmarks)
            )
    groups[len(rows)] = "The paper: real ultrasound, all images, private training data"
    rows += [_paper(row, benchmarks) for row in paper_rows({run.experiment for run in runs})]
    head = [
        "model",
        *(TITLES[name] for name in benchmarks),
        "class F1 (8 classes)",
        "composite",
        "parameters",
    ]
    splits = {(run.details(STUDENT, name) or {}).get("split", "test") for run in runs for name in benchmarks}
    title = "Scores on test patients" if splits <= {"test"} else "Scores on all images, those of training too"
    return Table(title, head, rows, groups, frozenset(range(quiet, len(rows))))


def difference(first: Run, model: str, second: Run, other: str, benchmark: str) -> Difference | None:
    """Return `other` of `second` minus `model` of `first`; None unless both scored the same images."""
    a, b = first.details(model, benchmark), second.details(other, benchmark)
    if a is None or b is None or not same_images(a["samples"], b["samples"]):
        return None
    return score_difference(a["samples"], b["samples"], classification=benchmark != HC18)


def difference_cell(found: Difference | None, benchmark: str) -> Cell:
    """Write a difference with its interval; its tone says whether zero is outside."""
    if found is None:
        return Cell(NOTHING)
    tone = ("good" if found.low > 0 else "bad") if found.is_clear else ""
    return Cell(
        signed(found.value, benchmark),
        f"{signed(found.low, benchmark)} to {signed(found.high, benchmark)}",
        tone,
    )


def differences(runs: Sequence[Run], titles: Sequence[str], reference: Run | None) -> Table | None:
    """Return the students' differences from their teachers and from the reference run."""
    benchmarks = [name for name in HEADLINE if any(name in run.benchmarks() for run in runs)]
    rows = []
    for run, title in zip(runs, titles, strict=True):
        found = [difference(run, TEACHER, run, STUDENT, name) for name in benchmarks]
        if any(found):
            rows.append([Cell(f"{title} over its teacher"), *map(difference_cell, found, benchmarks)])
    for run, title in zip(runs, titles, strict=True):
        if reference is None or run is reference:
            continue
        against = titles[list(runs).index(reference)]
        found = [difference(reference, STUDENT, run, STUDENT, name) for name in benchmarks]
        rows.append([Cell(f"{title} over {against}"), *map(difference_cell, found, benchmarks)])
    if not rows:
        return None
    return Table(
        "Differences on the same images", ["difference", *(TITLES[name] for name in benchmarks)], rows, {}
    )


def per_class(run: Run, benchmark: str, rival: Run, model: str, rival_title: str) -> Table | None:
    """Return F1 by class of the student beside a rival model's, None where one was not scored."""
    mine, theirs = run.details(STUDENT, benchmark), rival.details(model, benchmark)
    if mine is None or theirs is None or "per_class" not in mine:
        return None
    rows = []
    for name, scores in mine["per_class"].items():
        before = theirs["per_class"].get(name)
        if before is None:
            continue
        change = scores["f1"] - before["f1"]
        tone = "" if abs(change) < 0.0005 else ("good" if change > 0 else "bad")
        cells = [short(before["f1"]), short(scores["f1"]), Cell(signed(change, benchmark), tone=tone)]
        rows.append([Cell(name), Cell(str(scores["support"])), *cells])
    title = f"F1 by class, {TITLES[benchmark].removesuffix(' F1')}"
    return Table(title, ["class", "images", rival_title, "student", "change"], rows, {})


def subgroups(run: Run) -> list[Table]:
    """Return the scores of every subgroup, student beside teacher."""
    tables = []
    for benchmark in run.benchmarks():
        mine = (run.details(STUDENT, benchmark) or {}).get("subgroups", {})
        theirs = (run.details(TEACHER, benchmark) or {}).get("subgroups", {})
        for kind, groups in mine.items():
            rows = [
                [
                    Cell(name),
                    Cell(str(scores["count"])),
                    _with_interval(theirs.get(kind, {}).get(name, {}).get, benchmark),
                    _with_interval(scores.get, benchmark),
                ]
                for name, scores in groups.items()
            ]
            if rows:
                tables.append(
                    Table(f"{TITLES[benchmark]} by {kind}", [kind, "images", "teacher", "student"], rows, {})
                )
    return tables


def parity(run: Run) -> Table | None:
    """Return the export's parity ledger, None without an export."""
    if run.parity is None:
        return None
    rows = []
    for row in run.parity.get("rows", []):
        figures: dict[str, Any] = row.get("figures", {})
        lost = row.get("points_lost")
        status = str(row.get("status"))
        notes = [EMULATED_NOTE if status == EMULATED else "", str(row.get("note") or "")]
        rows.append(
            [
                Cell(str(row.get("variant"))),
                Cell(status, "; ".join(filter(None, notes)), VERDICTS.get(status, "")),
                Cell(f"{figures['cosine_min']:.6f}" if "cosine_min" in figures else NOTHING),
                Cell(f"{figures['flip_rate']:.2%}" if "flip_rate" in figures else NOTHING),
                Cell(NOTHING if lost is None else f"{lost:.2f}"),
            ]
        )
    head = ["exported variant", "verdict", "lowest cosine", "changed classes", "points lost"]
    return Table("Is the export the same model?", head, rows, {})


def latency(run: Run) -> Table | None:
    """Return the times of the image tower by backend, None when nothing was timed."""
    if run.latency is None:
        return None
    rows = []
    for name, row in run.latency.get("backends", {}).items():
        if "error" in row:
            rows.append([Cell(name, str(row["error"])), *[Cell(NOTHING)] * 4])
            continue
        ratio = row.get("ratio", {}).get("median")
        rows.append(
            [
                Cell(name),
                *[Cell(f"{row[key]:.2f}" if key in row else NOTHING) for key in ("p50_ms", "p95_ms")],
                Cell(NOTHING if ratio is None else f"{ratio:.2f}"),
                Cell(f"{row['peak_mb']:.0f}" if "peak_mb" in row else NOTHING),
            ]
        )
    yardstick = run.latency.get("yardstick", "the yardstick")
    head = ["backend, one image", "median ms", "p95 ms", f"times {yardstick}", "peak MB"]
    return Table(f"Latency on {run.latency.get('machine', {}).get('device', 'this machine')}", head, rows, {})
