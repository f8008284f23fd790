"""The report's tables of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from experiments.paper import F1, PAPER, PAPER_STUDENT_PARAMETERS, VALIDITY
from experiments.paper import TITLES as EXPERIMENT_TITLES
from experiments.report.paired import Difference, paired, score_difference
from experiments.report.read_run import Run
from export.parity.ledger import FAILED, OK
from metrics.benchmarks import BENCHMARKS, HC18, SUBPLANES
from metrics.biometry import constant_age_title
from metrics.names import (
    CONSTANT,
    EIGHT_CLASS,
    HEADLINE,
    RANDOM,
    STUDENT,
    TEACHER,
    final_name,
    interval_names,
)

WORDS = {
    name: benchmark.title.rpartition(" ")[0].removesuffix(" validity,")
    for name, benchmark in BENCHMARKS.items()
}
TITLES = {name: benchmark.title for name, benchmark in BENCHMARKS.items()}
VERDICTS = {OK: "good", FAILED: "bad"}  # a variant that did not run has no colour
MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"

PAPER_SOURCE = "Saeed et al., arXiv:2603.05421"
PAPER_BEST = "srkd"
PAPER_SUBPLANES_F1 = {
    TEACHER: 0.702,
    PAPER_BEST: 0.784,
}  # abstract; its tables have only the eight-class mean


class Cell(NamedTuple):
    """A text, a smaller note below it, and a tone: ``good``, ``fair``, ``bad`` or empty."""

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

    @classmethod
    def of(cls, caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
        """Return a table without groups, of texts and cells."""
        cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
        return cls(caption, list(head), cells, {})


def number(value: float | None, digits: int = 3) -> str:
    """Write a number, or a dash."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def signed(value: float, benchmark: str) -> str:
    """Write a difference of scores with its sign: F1 with three decimals, validity in percent with one."""
    return f"{value:+.{_digits(benchmark)}f}".replace("-", MINUS)


def _digits(benchmark: str) -> int:
    return 1 if benchmark == HC18 else 3


def _score(get: Callable[[str], float | None], key: str, digits: int = 3) -> Cell:
    """Return a score, with its interval below where there is one."""
    low, high = map(get, interval_names(key))
    note = "" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"
    return Cell(number(get(key), digits), note)


def _measured(run: Run, model: str, title: str, benchmarks: Sequence[str], best: bool = False) -> list[Cell]:
    count = run.record.get("parameters", {}).get(STUDENT if model == RANDOM else model)
    return [
        Cell(title),
        *(_score(partial(run.metric, model, name), HEADLINE[name], _digits(name)) for name in benchmarks),
        _score(partial(run.metric, model, EIGHT_CLASS), "f1"),
        Cell(number(run.composite(model)), "highest of the students" if best else ""),
        Cell(NOTHING if count is None else f"{count / 1e6:.1f} M"),
    ]


def _paper_rows(experiments: set[str], benchmarks: Sequence[str]) -> list[list[Cell]]:
    """Return the paper's teacher, its best student, and the rows of these experiments."""
    rows = []
    for name, values in PAPER.items():
        if name in {TEACHER, PAPER_BEST} | experiments:
            known = {HC18: values[VALIDITY], SUBPLANES: PAPER_SUBPLANES_F1.get(name)}
            texts = [
                "FetalCLIP, the paper's teacher" if name == TEACHER else EXPERIMENT_TITLES[name],
                *(number(known.get(benchmark), _digits(benchmark)) for benchmark in benchmarks),
                number(values[F1]),
                number((values[F1] + values[VALIDITY] / 100) / 2),
                "427 M" if name == TEACHER else PAPER_STUDENT_PARAMETERS,
            ]
            rows.append([Cell(text) for text in texts])
    return rows


def headline(runs: Sequence[Run], titles: Sequence[str]) -> Table:
    """Return every model's headline scores beside the paper's."""
    benchmarks = [name for name in HEADLINE if any(name in run.benchmarks() for run in runs)]
    scores = [run.composite(STUDENT) or 0.0 for run in runs]
    rows = [
        _measured(run, STUDENT, title, benchmarks, len(runs) > 1 and score == max(scores))
        for run, title, score in zip(runs, titles, scores, strict=True)
    ]
    quiet = len(rows)
    for model in (TEACHER, RANDOM, CONSTANT):
        # Runs often share a baseline: the last run of each distinct one stands for them.
        distinct = {
            tuple(run.headline(model).items()): (run, title) for run, title in zip(runs, titles, strict=True)
        }
        distinct.pop((), None)
        for run, title in distinct.values():
            word = "random weights" if model == RANDOM else model
            if model == CONSTANT:
                word = constant_age_title(run.record["metrics"][final_name(CONSTANT, HC18, "age_days")])
            name = word if len(distinct) == 1 else f"{word} of {title}"
            rows.append(_measured(run, model, name, benchmarks))
    groups = {
        0: "Students, measured here",
        quiet: "For comparison, measured here",
        len(rows): "The paper: real ultrasound, all images, private training data",
    }
    rows += _paper_rows({run.experiment for run in runs}, benchmarks)
    columns = [TITLES[name] for name in benchmarks]
    head = ["model", *columns, "class F1 (8 classes)", "composite", "parameters"]
    splits = {(run.details(STUDENT, name) or {}).get("split", "test") for run in runs for name in benchmarks}
    caption = (
        "Scores on test patients" if splits <= {"test"} else "Scores on all images, training images included"
    )
    return Table(caption, head, rows, groups, frozenset(range(quiet, len(rows))))


def difference(first: Run, model: str, second: Run, other: str, benchmark: str) -> Difference | None:
    """Return `other` of `second` minus `model` of `first`; None unless both scored the same images."""
    pairs = paired(first.details(model, benchmark), second.details(other, benchmark))
    return None if pairs is None else score_difference(pairs, classification=benchmark != HC18)


def in_words(found: Difference, benchmark: str) -> tuple[str, str]:
    """Write a difference, and its interval."""
    low, high = (signed(end, benchmark) for end in (found.low, found.high))
    return signed(found.value, benchmark), f"{low} to {high}"


def differences(runs: Sequence[Run], titles: Sequence[str], reference: Run | None) -> Table | None:
    """Return the students' differences from their teachers and from the reference run.

    A cell is coloured where zero is outside of the interval.
    """
    benchmarks = [name for name in HEADLINE if any(name in run.benchmarks() for run in runs)]
    named = list(zip(runs, titles, strict=True))
    compared = [(f"{title} over its teacher", run, TEACHER, run) for run, title in named]
    compared += [
        (f"{title} over {titles[list(runs).index(reference)]}", reference, STUDENT, run)
        for run, title in named
        if reference is not None and run is not reference
    ]
    rows: list[list[str | Cell]] = []
    for title, first, model, run in compared:
        row: list[str | Cell] = [title]
        for benchmark in benchmarks:
            found = difference(first, model, run, STUDENT, benchmark)
            if found is None:
                row.append(NOTHING)
            else:
                tone = "good" if found.low > 0 else "bad" if found.high < 0 else ""
                row.append(Cell(*in_words(found, benchmark), tone))
        if model == STUDENT or set(row[1:]) != {NOTHING}:
            rows.append(row)
    head = ["difference", *(TITLES[name] for name in benchmarks)]
    return Table.of("Differences on the same images", head, rows) if rows else None


def per_class(run: Run, benchmark: str) -> Table | None:
    """Return F1 by class of student and teacher, None where one was not scored."""
    mine, theirs = run.details(STUDENT, benchmark), run.details(TEACHER, benchmark)
    if mine is None or theirs is None or "per_class" not in mine:
        return None
    rows = []
    for name, scores in mine["per_class"].items():
        before = theirs["per_class"].get(name)
        if before is not None:
            change = scores["f1"] - before["f1"]
            tone = "" if abs(change) < 0.0005 else "good" if change > 0 else "bad"
            texts = [name, str(scores["support"]), number(before["f1"]), number(scores["f1"])]
            rows.append([*texts, Cell(signed(change, benchmark), tone=tone)])
    head = ["class", "images", "teacher", "student", "change"]
    return Table.of(f"F1 by class, {WORDS[benchmark]}", head, rows)


def subgroups(run: Run) -> list[Table]:
    """Return the scores of every subgroup, student beside teacher."""
    tables = []
    for benchmark in run.benchmarks():
        mine, theirs = (
            (run.details(model, benchmark) or {}).get("subgroups", {}) for model in (STUDENT, TEACHER)
        )
        for kind, groups in mine.items():
            score = HEADLINE[benchmark], _digits(benchmark)
            rows = [
                [name, str(scores["count"]), _score(theirs.get(kind, {}).get(name, {}).get, *score),
                 _score(scores.get, *score)]
                for name, scores in groups.items()
            ]  # fmt: skip
            if rows:
                caption = f"{TITLES[benchmark]} by {kind}"
                tables.append(Table.of(caption, [kind, "images", "teacher", "student"], rows))
    return tables


def parity(run: Run) -> Table | None:
    """Return the export's parity ledger, None without an export."""
    if run.parity is None:
        return None
    rows = []
    for row in run.parity.get("rows", []):
        found: dict[str, Any] = row.get("figures", {})
        status = str(row.get("status"))
        rows.append(
            [
                str(row.get("variant")),
                Cell(status, str(row.get("note") or ""), VERDICTS.get(status, "")),
                number(found.get("cosine_min"), 6),
                f"{found['flip_rate']:.2%}" if "flip_rate" in found else NOTHING,
                number(row.get("points_lost"), 2),
            ]
        )
    head = ["exported variant", "verdict", "lowest cosine", "changed classes", "points lost"]
    return Table.of("Is the export the same model?", head, rows)


def latency(run: Run) -> Table | None:
    """Return the times of the image tower by backend, None when nothing was timed."""
    if run.latency is None:
        return None
    rows = []
    for name, row in run.latency.get("backends", {}).items():
        values = [
            number(row.get("p50_ms"), 2),
            number(row.get("p95_ms"), 2),
            number(row.get("ratio", {}).get("median"), 2),
            number(row.get("peak_mb"), 0),
        ]
        rows.append([Cell(name, str(row.get("error", ""))), *values])
    ratio = f"times {run.latency.get('yardstick', 'the yardstick')}"
    head = ["backend, one image", "median ms", "p95 ms", ratio, "peak MB"]
    return Table.of(f"Latency on {run.latency.get('machine', {}).get('device', 'this machine')}", head, rows)
