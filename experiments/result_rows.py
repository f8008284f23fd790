"""Results of suites, one JSON line a run; ``experiments/results/DATA.jsonl`` holds the committed ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments import strict_json
from experiments.recipes import ROOT
from experiments.reproduce import PREFIX, REQUEST, has_results

RESULTS = ROOT / "results"
FILE_OPTIONS = ("--teacher", "--student", "--protocol")
Row = dict[str, Any]


def row_of(folder: Path) -> Row:
    """Return what is kept of a finished run of a suite: metrics, and what is needed to trace them.

    Raises:
        ValueError: The run's results.json lacks something.
    """
    record = strict_json.read((folder / "results.json").read_text(encoding="utf-8"))
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    try:
        scored = record["details"].get("student", {}).items()
        return {
            "experiment": record["experiment"],
            "data": record["data"],
            "seed": record["seed"],
            "arguments": [_portable(argument) for argument in request["arguments"]],
            "digests": request.get("digests", {}),
            "trained_on": request.get("trained_on", {}),
            "metrics": record["metrics"],
            "split": {name: details["split"] for name, details in scored if "split" in details},
            "protocol": {name: details["protocol"] for name, details in scored if "protocol" in details},
            "monitor": record["selection"]["monitor"],
            "parameters": record["parameters"],
            "steps": record["steps"],
            "seconds": record["seconds"],
            "finished": record["finished"],
            "git_commit": record["git_commit"],
            "versions": {name: record["versions"][name] for name in ("python", "torch", "lightning")},
            "machine": record["machine"],
        }
    except KeyError as error:
        raise ValueError(
            f"{folder / 'results.json'}: lacks {error}; run the suite again without it"
        ) from None


def _portable(argument: str) -> str:
    """Keep the file's name of a path: rows are committed, and folders are each user's own."""
    option, equals, value = argument.partition("=")
    return f"{option}={Path(value).name}" if equals and option in FILE_OPTIONS else argument


def group_of(row: Row) -> tuple[Any, ...]:
    """Return what rows of one table share: arguments, weights, prompts and data, all of them by their content.

    Files of one name may differ, and the same lie at many paths. Rows of earlier versions know no contents; for
    them the name stands.
    """
    digests = row.get("digests", {})
    options = [argument.partition("=")[0] for argument in row["arguments"]]
    arguments = (
        f"{option}={digests[option]}" if option in digests else argument
        for option, argument in zip(options, row["arguments"], strict=True)
    )
    data = ((name, digest) for name, digest in digests.items() if name not in options)
    return tuple(arguments), tuple(sorted(row["protocol"].items())), tuple(sorted(data))


def identity(row: Row) -> tuple[Any, ...]:
    """Return what makes two rows results of one and the same run."""
    return row["experiment"], row["seed"], *group_of(row)


def read_rows(path: Path) -> list[Row]:
    """Read a file of rows; a file that does not exist has none.

    Raises:
        ValueError: A line is not JSON.
    """
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(strict_json.read(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number}: not JSON: {error}") from None
    return rows


def refresh(preset: str, outputs: Path, committed: Path = RESULTS, target: Path | None = None) -> list[Row]:
    """Join the committed rows of a data preset with those of the finished runs, write them, and return them all.

    A run that was repeated replaces its row; rows of runs that are no longer in `outputs` stay.

    Args:
        preset: Name of the data preset.
        outputs: Folder of all runs.
        committed: Folder of the committed rows.
        target: Folder to write to; None writes the committed file.
    """
    rows = {identity(row): row for row in read_rows(committed / f"{preset}.jsonl")}
    for request in sorted(outputs.glob(f"*/{PREFIX}{preset}-s*/{REQUEST}")):
        if has_results(request.parent):
            row = row_of(request.parent)
            if row["data"] == preset:
                rows[identity(row)] = row
    ordered = sorted(rows.values(), key=identity)
    path = (target or committed) / f"{preset}.jsonl"
    if ordered != read_rows(path):
        write_rows(ordered, path)
    return ordered


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write rows atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
