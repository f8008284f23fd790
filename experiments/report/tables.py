"""The report's tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd

from experiments.outcomes import contrast_outcomes, outcomes_of
from experiments.paper import PAPER, PAPER_STUDENT_PARAMETERS
from experiments.paper import TITLES as EXPERIMENT_TITLES
from experiments.report.read_run import FinishedRun
from experiments.report.reference import flatten, seed_pairs, shown
from export.parity.ledger import FAILED, OK
from metrics.benchmarks import BENCHMARKS, HC18, Benchmark
from metrics.bootstrap import Comparison
from metrics.names import (
    BLACK_IMAGE,
    CONSTANT,
    EIGHT_CLASS,
    ONE_PIXEL_SIZE,
    OTHER_IMAGE,
    PIXEL_SIZE,
    RANDOM,
    STUDENT,
    TEACHER,
    formatted,
    interval_names,
    with_sign,
)

VERDICTS = {OK: "good", FAILED: "bad"}  # a variant that did not run has no colour
MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"
SPLITS = {"test": "test patients", "all": "all images, training images included"}

PAPER_SOURCE = "Saeed et al., arXiv:2603.05421"
PAPER_BEST = "srkd"
COMPOSITE = "composite"
EIGHT_TITLE = "class F1 (8 classes)"


class Cell(NamedTuple):
    """A text, a smaller note below it, and a tone: ``good``, ``bad`` or empty."""

    text: str
    note: str = ""
    tone: str = ""


TableRow = dict[str, str | Cell]


class Table(NamedTuple):
    """A caption and rows, column -> text or cell, whose first column names them.

    A text among the rows is the title of the group that follows; rows after the first group are for comparison.
    """

    caption: str
    rows: Sequence[TableRow | str]

    @property
    def head(self) -> list[str]:
        """Names of the columns."""
        return list(next((row for row in self.rows if isinstance(row, dict)), {}))


def _tone(low: float, high: float) -> str:
    """Return the tone of a difference with this interval."""
    return "good" if low > 0 else "bad" if high < 0 else ""


_text = partial(formatted, nothing=NOTHING)


def signed(value: float, benchmark: Benchmark) -> str:
    """Write a difference of scores with its sign: F1 with three decimals, validity in percent with one."""
    return with_sign(value, benchmark.digits).replace("-", MINUS)


def _interval(get: Callable[[str], float | None], key: str, digits: int, patients: bool = False) -> str:
    """Return the interval of a score over images or patients, empty without one."""
    ends = [get(end) for end in interval_names(key, patients)]
    return "" if None in ends else " to ".join(_text(end, digits) for end in ends)


def _score(get: Callable[[str], float | None], key: str, digits: int = 3) -> Cell:
    """Return a score, with its interval below where there is one."""
    return Cell(_text(get(key), digits), _interval(get, key, digits))


def _scored_on(runs: Sequence[FinishedRun]) -> list[Benchmark]:
    return [one for one in BENCHMARKS.values() if any(one in run.benchmarks() for run in runs)]


def beside_paper(benchmarks: Sequence[Benchmark]) -> bool:
    """Return whether the paper has scores of any of these benchmarks."""
    return not all(one.own for one in benchmarks)


def _headline_row(title: str, cells: TableRow, benchmarks: Sequence[Benchmark], parameters: str) -> TableRow:
    columns = {one.name: one.title for one in benchmarks}
    columns |= {EIGHT_CLASS: EIGHT_TITLE} if beside_paper(benchmarks) else {}
    columns |= {COMPOSITE: COMPOSITE}
    named = {text: cells.get(name, NOTHING) for name, text in columns.items()}
    return {"model": title, **named, "parameters": parameters}


def _measured(
    run: FinishedRun, model: str, title: str, benchmarks: Sequence[Benchmark], best: bool = False
) -> TableRow:
    count = run.record.get("parameters", {}).get(STUDENT if model == RANDOM else model)
    cells: TableRow = {
        one.name: _score(partial(run.metric, model, one.name), one.headline, one.digits) for one in benchmarks
    }
    cells[EIGHT_CLASS] = _score(partial(run.metric, model, EIGHT_CLASS), "f1")
    cells[COMPOSITE] = Cell(_text(run.composite(model)), "highest of the students" if best else "")
    parameters = NOTHING if count is None else f"{count / 1e6:.1f} M"
    return _headline_row(title, cells, benchmarks, parameters)


def _paper_rows(experiments: set[str], benchmarks: Sequence[Benchmark]) -> Iterator[TableRow]:
    """Yield the paper's teacher, its best student, and the rows of these experiments."""
    for name, values in PAPER.items():
        if name in {TEACHER, PAPER_BEST} | experiments:
            cells: TableRow = {one.name: _text(values.get(one.name), one.digits) for one in benchmarks}
            cells[EIGHT_CLASS] = _text(values[EIGHT_CLASS])
            cells[COMPOSITE] = _text((values[EIGHT_CLASS] + values[HC18] / 100) / 2)
            title = "FetalCLIP, the paper's teacher" if name == TEACHER else EXPERIMENT_TITLES[name]
            parameters = "427 M" if name == TEACHER else PAPER_STUDENT_PARAMETERS
            yield _headline_row(title, cells, benchmarks, parameters)


def headline(runs: Sequence[FinishedRun], titles: Sequence[str]) -> Table:
    """Return every model's headline scores beside the paper's."""
    benchmarks, named = _scored_on(runs), list(zip(runs, titles, strict=True))
    composites = [run.composite(STUDENT) for run in runs]
    highest = max((value for value in composites if value is not None), default=None)
    alone = all(run.scores_teacher for run in runs)
    rows: list[TableRow | str] = ["Measured here" if alone else "Students, measured here"]
    for run, title in named:
        best = len(runs) > 1 and highest is not None and run.composite(STUDENT) == highest
        rows.append(_measured(run, STUDENT, title, benchmarks, best))
    rows.append("For comparison, measured here")
    for model in (TEACHER, RANDOM, PIXEL_SIZE, CONSTANT):
        # Runs often share a baseline: the last run of each distinct one stands for them.
        distinct = {tuple(run.headline(model).items()): (run, title) for run, title in named}
        distinct.pop((), None)
        for run, title in distinct.values():
            name = run.titles[model] if len(distinct) == 1 else f"{run.titles[model]} of {title}"
            rows.append(_measured(run, model, name, benchmarks))
    if beside_paper(benchmarks):
        rows.append("The paper: real ultrasound, all images, private training data")
        rows += _paper_rows({run.experiment for run in runs}, benchmarks)
    splits = sorted({split for run in runs for split in run.splits()}, reverse=True)
    where = " or ".join(SPLITS.get(split, split) for split in splits) or SPLITS["test"]
    return Table(f"Scores on {where}", rows)


OVER_IMAGES, OVER_PATIENTS = "95 % over images", "95 % over patients"


def baseline_tables(run: FinishedRun) -> Iterator[Table]:
    """Yield each benchmark's score of models and baselines, both intervals, and the errors of ages."""
    for benchmark in run.benchmarks():
        score, digits, biometry = benchmark.headline, benchmark.digits, benchmark.kind == "biometry"
        rows: list[TableRow] = []
        for model in (STUDENT, TEACHER, RANDOM, PIXEL_SIZE, CONSTANT):
            get = partial(run.metric, model, benchmark.name)
            if get(score) is None:
                continue
            # "constant age 34w2d, majority class" names the constant answers of both kinds.
            title = run.titles[model].partition(",")[0] if biometry else run.titles[model]
            row: TableRow = {"answers by": title, "score": _text(get(score), digits)}
            for patients, name in enumerate((OVER_IMAGES, OVER_PATIENTS)):
                row[name] = _interval(get, score, digits, bool(patients)) or NOTHING
            if biometry:
                row |= {
                    "weeks off": _text(get("mae_weeks"), 1),
                    "rank correlation": _text(get("spearman"), 2),
                }
            rows.append(row)
        yield Table(f"{benchmark.title}, beside answers without an image", rows)


def missing_baselines(run: FinishedRun) -> dict[str, str]:
    """Return why a benchmark has no baselines, by its title."""
    found = {one.title: run.details(CONSTANT, one.name).get("lacking") for one in run.benchmarks()}
    return {title: str(reason) for title, reason in found.items() if reason}


ABLATED = {
    BLACK_IMAGE: "black image, own pixel size",
    OTHER_IMAGE: "another patient's image, own pixel size",
    ONE_PIXEL_SIZE: "own image, one pixel size for all",
}


def ablations(run: FinishedRun) -> Iterator[Table]:
    """Yield the student's scores with one part of its input removed."""
    for benchmark in run.benchmarks():
        get, score, digits = (
            partial(run.metric, STUDENT, benchmark.name),
            benchmark.headline,
            benchmark.digits,
        )
        whole = get(score)
        rows: list[TableRow] = [
            {"input": "image and pixel size", "score": _score(get, score, digits), "change": NOTHING}
        ]
        for name, title in ABLATED.items():
            changed = get(f"{name}_{score}")
            if changed is not None and whole is not None:
                cell = _score(get, f"{name}_{score}", digits)
                rows.append({"input": title, "score": cell, "change": signed(changed - whole, benchmark)})
        if len(rows) > 1:
            yield Table(f"{benchmark.title}, {run.titles[STUDENT]} with part of its input", rows)


def difference(
    pairs: Sequence[tuple[FinishedRun, FinishedRun]], rival: str, benchmark: Benchmark
) -> Comparison | None:
    """Return the student's score in the first runs minus that of `rival` in the second; None unless on the same images.

    Args:
        pairs: Runs that are compared, a pair a seed.
        rival: "student" or "teacher" of the second runs.
        benchmark: The benchmark.
    """
    terms = []
    for factor, model, runs in zip((1, -1), (STUDENT, rival), zip(*pairs, strict=True), strict=True):
        details = [run.details(model, benchmark.name) for run in runs]
        terms.append((factor, {seed: outcomes_of(one) for seed, one in enumerate(details) if one}))
    complete = all(len(outcomes) == len(pairs) for _, outcomes in terms)
    return contrast_outcomes(*terms) if complete else None


def interval_of(found: Comparison, benchmark: Benchmark) -> str:
    """Write the interval of a difference."""
    if math.isnan(found.low):
        return "no interval from one patient"
    return f"{signed(found.low, benchmark)} to {signed(found.high, benchmark)}"


def differences(
    runs: Sequence[FinishedRun], titles: Sequence[str], reference: FinishedRun | None
) -> Table | None:
    """Return the students' differences from their teachers and from the reference run.

    Runs that differ in the seed alone share a line. A cell is coloured where zero is outside of the interval.
    """
    named = list(zip(runs, titles, strict=True))
    compared = [(f"{title} over its teacher", [(run, run)], TEACHER) for run, title in named]
    if reference is not None:
        seen = [other for _, other in seed_pairs(runs, reference, reference)]
        for run, title in named:
            if run is reference or run in seen:
                continue
            pairs = seed_pairs(runs, run, reference)
            line = f"{title} over {titles[list(runs).index(reference)]}"
            if len(pairs) > 1:
                seen += [one for one, _ in seed_pairs(runs, run, run)]
                line = f"{run.experiment} over {reference.experiment}, {len(pairs)} seeds"
            compared.append((line, pairs, STUDENT))
    rows: list[TableRow] = []
    for line, pairs, rival in compared:
        cells: TableRow = {}
        for benchmark in _scored_on(runs):
            one = difference(pairs, rival, benchmark)
            cells[benchmark.title] = NOTHING
            if one is not None:
                tone = _tone(one.low, one.high)
                cells[benchmark.title] = Cell(signed(one.value, benchmark), interval_of(one, benchmark), tone)
        if rival == STUDENT or any(cell != NOTHING for cell in cells.values()):
            rows.append({"difference": line, **cells})
    return Table("Differences on the same images", rows) if rows else None


def per_class(run: FinishedRun) -> Iterator[Table]:
    """Yield F1 by class, student beside teacher, of every benchmark that both were scored on."""
    for benchmark in run.benchmarks():
        mine, theirs = (
            run.details(model, benchmark.name).get("per_class", {}) for model in (STUDENT, TEACHER)
        )
        rows: list[TableRow] = []
        for name in (name for name in mine if name in theirs):
            before, after = theirs[name]["f1"], mine[name]["f1"]
            change = after - before
            row: TableRow = {"class": name, "images": str(mine[name]["support"])}
            row |= {"teacher": _text(before), "student": _text(after)}
            row["change"] = Cell(signed(change, benchmark), tone=_tone(change - 0.0005, change + 0.0005))
            rows.append(row)
        if rows:
            yield Table(f"F1 by class, {benchmark.subject}", rows)


def subgroups(run: FinishedRun) -> Iterator[Table]:
    """Yield the scores of every subgroup, student beside teacher."""
    for benchmark in run.benchmarks():
        mine, theirs = (
            run.details(model, benchmark.name).get("subgroups", {}) for model in (STUDENT, TEACHER)
        )
        for kind, groups in mine.items():
            score = benchmark.headline, benchmark.digits
            rows: list[TableRow] = [
                {
                    kind: name,
                    "images": str(scores["count"]),
                    "teacher": _score(theirs.get(kind, {}).get(name, {}).get, *score),
                    # One column where a teacher is scored alone.
                    run.titles[STUDENT]: _score(scores.get, *score),
                }
                for name, scores in groups.items()
            ]
            if rows:
                yield Table(f"{benchmark.title} by {kind}", rows)


def parity(run: FinishedRun) -> Table | None:
    """Return the export's parity ledger, None without an export."""
    if run.parity is None:
        return None
    rows: list[TableRow] = []
    for row in run.parity.get("rows", []):
        found, status = row.get("figures", {}), str(row.get("status"))
        rows.append(
            {
                "exported variant": str(row.get("variant")),
                "verdict": Cell(status, str(row.get("note") or ""), VERDICTS.get(status, "")),
                "lowest cosine": _text(found.get("cosine_min"), 6),
                "flip rate": f"{found['flip_rate']:.2%}" if "flip_rate" in found else NOTHING,
                "points lost": _text(row.get("points_lost"), 2),
            }
        )
    return Table("Is the export the same model?", rows)


def latency(run: FinishedRun) -> Table | None:
    """Return the times of the image tower by backend, None when nothing was timed."""
    if run.latency is None:
        return None
    rows: list[TableRow] = [
        {
            "backend, one image": Cell(name, str(row.get("error", ""))),
            "median ms": _text(row.get("p50_ms"), 2),
            "p95 ms": _text(row.get("p95_ms"), 2),
            f"times {run.latency.get('reference', 'the reference')}": _text(
                row.get("ratio", {}).get("median"), 2
            ),
            "peak MB": _text(row.get("peak_mb"), 0),
        }
        for name, row in run.latency.get("backends", {}).items()
    ]
    return Table(f"Latency on {run.latency.get('machine', {}).get('device', 'this machine')}", rows)


# Names of the run's own folder: they always differ.
OWN = ("run", "config", "ckpt_path", "trainer.default_root_dir", "trainer.logger", "checkpoint.dirpath")
KEYS = {
    "model.loss.class_path": "loss",
    "model.loss.init_args.temperature": "temperature",
    "schedule.init_args.start": "weight at the start",
    "schedule.init_args.end_ratio": "end over start",
    "schedule.init_args.end": "weight at the end",
    "schedule.init_args.shape": "shape of the schedule",
    "trainer.max_epochs": "epochs",
    "data.init_args.batch_size": "batch size",
    "model.learning_rate": "learning rate",
    "trainer.precision": "precision",
    "seed_everything": "seed",
    "paper_selection": "selected on the reported images",
}


def settings(runs: Sequence[FinishedRun], titles: Sequence[str]) -> list[Table]:
    """Return the main settings, a column a run, and every setting in which runs differ."""
    flat = [
        {name: shown(value) for name, value in flatten(run.config).items() if value is not None}
        for run in runs
    ]
    frame = (
        pd.DataFrame(dict(zip(titles, map(pd.Series, flat), strict=True)), dtype=object)
        .fillna(NOTHING)
        .sort_index()
    )
    own = [f"{name}.".startswith(tuple(f"{key}." for key in OWN)) for name in frame.index]
    main = frame.reindex(KEYS).dropna().rename(index=KEYS)
    differing = frame[(frame.nunique(axis=1) > 1) & ~pd.Series(own, index=frame.index, dtype=bool)]
    captioned = {"Main settings": main, "Settings that differ": differing}
    return [
        Table(name, part.reset_index(names="setting").to_dict("records")) for name, part in captioned.items()
    ]
