"""``make check-data``: is a corpus on disk whole, readable and free of leaks?"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from datamodules.corpora import CORPORA, corpus_named
from datamodules.corpus_check import (
    Finding,
    check_counts,
    check_duplicates,
    check_files,
    check_measurements,
    check_splits,
)
from datamodules.image_scan import Scan, scan_images
from datamodules.shard_writer import verify_shards

SHARDS = "shards"
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def check_corpus(name: str, root: Path, workers: int) -> list[Finding]:
    """Run every check on one corpus.

    Raises:
        ValueError: No corpus has that name, or its table is malformed.
        FileNotFoundError: The folder or the table is missing.
    """
    if name == SHARDS:
        problems = verify_shards(root)
        return [Finding("shard", "error", problem) for problem in problems] or [
            Finding("shards", "ok", "whole")
        ]
    corpus = corpus_named(name)
    missing: list[str] = []
    records = corpus.assign_splits(root, corpus.read(root, missing))
    scans = scan_images([record.image for record in records], workers, _bar)
    return [
        *check_counts(records, corpus.published),
        *check_files(missing, records, scans),
        *check_splits(records),
        *check_duplicates(records, scans),
        *check_measurements(records, scans),
    ]


def _bar(scans: Iterator[Scan], total: int) -> Iterator[Scan]:
    yield from track(scans, total=total, description="decoding", console=Console(stderr=True))


def main(argv: list[str]) -> int:
    """Check a corpus and print the table, and with ``--all`` beneath it every image that a check found, one a line.

    Args:
        argv: ``DATA ROOT [--all] [--strict] [--workers N]``.

    Returns:
        Exit code: 1 when something is wrong (with ``--strict``: or only odd), else 0.
    """
    parser = argparse.ArgumentParser(prog="check-data", description=__doc__)
    parser.add_argument("data", choices=[*CORPORA, SHARDS], help="which corpus it is")
    parser.add_argument("root", type=Path, help="the folder that holds it")
    parser.add_argument("--all", action="store_true", help="name every image found, not only the first few")
    parser.add_argument("--strict", action="store_true", help="fail on warnings, too")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode")
    arguments = parser.parse_args(argv)
    findings = check_corpus(arguments.data, arguments.root, arguments.workers)
    table = Table("check", "", "found", title=f"{arguments.data} in {arguments.root}")
    for finding in findings:
        table.add_row(finding.check, f"[{_COLOURS[finding.level]}]{finding.level}", finding.detail)
    Console().print(table)
    for finding in findings if arguments.all else ():
        for case in finding.cases:
            print(f"{finding.check}: {case}")
    levels = {finding.level for finding in findings}
    return int("error" in levels or (arguments.strict and "warning" in levels))
