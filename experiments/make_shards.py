"""``make shards``: build an open pre-training corpus from the public sets on disk."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from datamodules.corpora import CORPORA, Corpus, counts, find_corpora
from datamodules.image_files import first_few, list_command
from datamodules.record import Record
from datamodules.shard_writer import ShardSettings, without_evaluation_patients, write_shards


def collect(roots: dict[str, Path], exclude_test: bool) -> tuple[list[Record], list[dict[str, Any]]]:
    """Read the corpora and describe them for the manifest.

    Args:
        roots: Folder of each corpus, by its name.
        exclude_test: Leave validation and test patients out.

    Raises:
        ValueError: A table is malformed.
        FileNotFoundError: Images are missing.
    """
    records: list[Record] = []
    sources = []
    for name in sorted(roots):
        corpus = CORPORA[name]
        ours = corpus.assign_splits(roots[name], _read(corpus, roots[name]))
        left_out = 0
        if exclude_test:
            ours, left_out = without_evaluation_patients(ours)
        sources.append(
            {**_description(corpus), "evaluation_images_left_out": left_out, "counts": counts(ours)}
        )
        records += ours
    return records, sources


def _read(corpus: Corpus, root: Path) -> list[Record]:
    missing: list[str] = []
    records = corpus.read(root, missing)
    if missing:
        raise FileNotFoundError(
            f"shards: {len(missing)} images of {corpus.title} are missing under {root}: "
            f"{first_few(missing)}; {list_command(corpus.name, root)}"
        )
    return records


def _description(corpus: Corpus) -> dict[str, Any]:
    return {key: getattr(corpus, key) for key in ("name", "title", "source", "licence", "citation")}


def _bar(records: Iterable[Record], total: int) -> Iterator[Record]:
    yield from track(records, total=total, description="writing", console=Console(stderr=True))


def main(argv: list[str]) -> int:
    """Build the shards; a second call continues an interrupted one.

    Args:
        argv: ``ROOT OUT [--no-exclude-test] [--samples-per-shard N] [--seed N]``.

    Raises:
        ValueError: A size is not positive, a table is malformed, or `OUT` holds another corpus.
        FileNotFoundError: There is no corpus under `ROOT`, or images are missing.
    """
    parser = argparse.ArgumentParser(prog="shards", description=__doc__)
    parser.add_argument("root", type=Path, help="folder that holds the public sets, at most two levels down")
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument(
        "--exclude-test",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave validation and test patients out (the default)",
    )
    parser.add_argument("--samples-per-shard", type=int, default=ShardSettings.samples_per_shard)
    parser.add_argument("--seed", type=int, default=ShardSettings.seed)
    arguments = parser.parse_args(argv)
    settings = ShardSettings(samples_per_shard=arguments.samples_per_shard, seed=arguments.seed)
    roots = find_corpora(arguments.root)
    print("found", ", ".join(f"{CORPORA[name].title} in {path}" for name, path in roots.items()))
    records, sources = collect(roots, arguments.exclude_test)
    manifest = write_shards(records, arguments.out, settings, sources, _bar)
    last = len(manifest["shards"]) - 1
    print(f"{len(records)} pairs in {last + 1} shards: {arguments.out}/pairs-{{000000..{last:06d}}}.tar")
    return 0
