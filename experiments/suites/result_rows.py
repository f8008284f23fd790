"""Results of suites, one JSON line per run; ``experiments/suites/results/DATA.jsonl`` holds the committed ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.outcomes import outcomes_of
from experiments.paper import STUDENTS
from experiments.suites.suite_runs import PREFIX, REQUEST, WITHOUT_EFFECT, has_results, read_object
from metrics.benchmarks import register_saved
from models.files import without_nan, write_text

RESULTS = Path(__file__).with_name("results")
PATH_OPTIONS = ("--teacher", "--student", "--protocol", "--data.images", "--data.init_args.images")
COPIED = ("metrics", "parameters", "steps", "seconds", "finished", "git_commit", "machine")
ResultRow = dict[str, Any]


def row_of(folder: Path) -> ResultRow:
    """Return the row of a finished run: its metrics, the outcome of every image, and the facts that trace them.

    Raises:
        ValueError: The run's results.json lacks a key.
    """
    record, request = read_object(folder / "results.json"), read_object(folder / REQUEST)
    try:
        scored = record["details"].get("student", {}).items()
        own = record.get("benchmarks", [])
        register_saved(own)
        return {
            "experiment": record["experiment"],
            "data": record["data"],
            "seed": record["seed"],
            "arguments": [_portable(one) for one in request["arguments"] if not WITHOUT_EFFECT.match(one)],
            "digests": request["digests"],
            "trained_on": request["trained_on"],
            "student": request.get("student", ""),
            "outcomes": {name: outcomes_of(details) for name, details in scored if "samples" in details},
            "split": {name: details["split"] for name, details in scored if "split" in details},
            "protocol": {name: details["protocol"] for name, details in scored if "protocol" in details},
            "monitor": record["selection"]["monitor"],
            "versions": {name: record["versions"][name] for name in ("python", "torch", "lightning")},
            **{name: record[name] for name in COPIED},
            **({"benchmarks": own} if own else {}),
        }
    except KeyError as error:
        raise ValueError(f"{folder}: {error} is missing in results.json or {REQUEST}; run it again") from None


def _portable(argument: str) -> str:
    """Reduce the path of an option to its last part, because rows are committed."""
    option, equals, value = argument.partition("=")
    return f"{option}={Path(value).name}" if equals and option in PATH_OPTIONS else argument


def group_of(row: ResultRow) -> tuple[Any, ...]:
    """Return what the rows of one table share: arguments, student, weights, prompts and data, files by digests."""
    digests = row["digests"]
    named = [(argument.partition("=")[0], argument) for argument in row["arguments"]]
    arguments = tuple(f"{name}={digests[name]}" if name in digests else text for name, text in named)
    student = row.get("student", "")
    return arguments, student, tuple(sorted(row["protocol"].items())), tuple(sorted(digests.items()))


def identity(row: ResultRow) -> tuple[Any, ...]:
    """Return the key by which a repeated run replaces its earlier row."""
    return row["experiment"], row["seed"], *group_of(row)


def read_rows(path: Path) -> list[ResultRow]:
    """Read a file of rows; a missing file has none."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        rows = [json.loads(line) for line in text.splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: a line is not JSON: {error}") from None
    for row in rows:
        register_saved(row.get("benchmarks", []))
    return rows


def write_rows(rows: Iterable[ResultRow], path: Path) -> None:
    """Write rows atomically."""
    write_text(path, "".join(json.dumps(without_nan(row), allow_nan=False) + "\n" for row in rows))


def finished(preset: str, outputs: Path) -> list[Path]:
    """Return the folders of the finished runs of suites on a data preset."""
    students = "|".join(f"-{student}" for student in STUDENTS if student)
    # For preset table the pattern below also finds runs of table-small.
    named = re.compile(rf"{PREFIX}{re.escape(preset)}({students})?-s\d+")
    requests = sorted(outputs.glob(f"*/{PREFIX}{preset}-*/{REQUEST}"))
    folders = [request.parent for request in requests]
    return [folder for folder in folders if named.fullmatch(folder.name) and has_results(folder)]


def refresh(
    preset: str, outputs: Path, committed: Path = RESULTS, target: Path | None = None
) -> list[ResultRow]:
    """Merge the committed rows of a data preset with those of finished runs in `outputs`, write and return them.

    A repeated run replaces its row; rows of runs that are no longer in `outputs` are kept. `target` is the folder to
    write to; None overwrites the committed file.
    """
    rows = {identity(row): row for row in read_rows(committed / f"{preset}.jsonl")}
    for folder in finished(preset, outputs):
        row = row_of(folder)
        if row["data"] == preset:
            rows[identity(row)] = row
    ordered = sorted(rows.values(), key=identity)
    path = (target or committed) / f"{preset}.jsonl"
    if ordered != read_rows(path):
        write_rows(ordered, path)
    return ordered
