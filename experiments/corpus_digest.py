"""What a suite's runs are trained and scored on, told by content: folders move, and others' data may lie in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.content_digest import DIGITS, content_digest
from experiments.interpreter import without_secrets
from experiments.recipes import preset_file
from experiments.shorthand import FOLDERS, data_arguments

SHARDS = "SHARDS"
CORPUS_OF = {"HC18_ROOT": "hc18", "PLANES_ROOT": "planes"}


def corpus_digests(preset: str, arguments: Sequence[str]) -> dict[str, str]:
    """Return the digests of the data that a run reads.

    A corpus is told by its table; shards by what the manifest beside them says of each, and those that no manifest
    lists by name and size, or by their URL. The phantom has none: its arguments make it.

    Args:
        preset: Name of the data preset.
        arguments: Arguments of ``python -m experiments train``.

    Returns:
        ``HC18_ROOT``, ``PLANES_ROOT`` or ``SHARDS`` -> the first 16 hexadecimal digits of a SHA-256. Nothing is known
        of a data module of the user's own.

    Raises:
        FileNotFoundError: A table or a shard is not there.
    """
    return place_digests(data_places(preset, arguments))


def place_digests(places: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of corpora and shards by ``HC18_ROOT``, ``PLANES_ROOT`` or ``SHARDS``, given their places.

    Raises:
        FileNotFoundError: A table or a shard is not there.
    """
    return {
        variable: _shards_digest(place) if variable == SHARDS else _table_digest(variable, place)
        for variable, place in places.items()
    }


def shard_corpora(preset: str, arguments: Sequence[str]) -> dict[str, str]:
    """Return which public corpora the shards of a run hold, as their manifest says.

    Returns:
        Corpus -> "train" for its training patients, or "all" where its test patients are in the shards, too. Empty
        without shards, or where they were not written by ``make shards``.
    """
    place = data_places(preset, arguments).get(SHARDS)
    if place is None:
        return {}
    # Here, because it imports PyTorch, for which other suites need not wait.
    from datamodules.pair_shards import list_shards, read_manifest

    sources = read_manifest(list_shards(place)).get("sources", [])
    return {
        source["name"]: "train" if source["evaluation_images_left_out"] else "all"
        for source in sources
        if source["name"] in CORPUS_OF.values()
    }


def data_places(preset: str, arguments: Sequence[str]) -> dict[str, str]:
    """Return where a run looks for its data: variable -> folder or URLs; empty for a data module of the user's own.

    Later ones count: the preset, the environment, then ``--config=`` and ``--data.`` among the arguments.
    """
    named = FOLDERS.get(preset, {})
    own = _data_of(preset_file(preset))
    places = dict(own["init_args"])
    for option, value in _options([*data_arguments(preset), *arguments]):
        given: Any = {}
        if option in ("--config", "-c"):
            given = _data_of(Path(value))
        elif option == "--data":
            given = yaml.safe_load(value)
        elif option.startswith("--data."):
            name = option.removeprefix("--data.").removeprefix("init_args.")
            given = {name: value} if name == "class_path" else {"init_args": {name: value}}
        if isinstance(given, str) or given.get("class_path", own["class_path"]) != own["class_path"]:
            return {}
        places |= given.get("init_args") or {}
    return {
        variable: str(places[argument])
        for argument, variable in named.items()
        if places.get(argument) not in (None, "null")
    }


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Split ``--option=value`` and ``--option value``."""
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        yield option, value if equals else "".join(arguments[number + 1 : number + 2])


def _data_of(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")).get("data") or {})


def _table_digest(variable: str, root: str) -> str:
    from datamodules.corpora import CORPORA  # here, as above
    from datamodules.image_files import find_table

    corpus = CORPORA[CORPUS_OF[variable]]
    remedy = f"expected {corpus.table} as {corpus.source} has it; say where it is with {variable}=folder"
    return content_digest(find_table(Path(root), corpus.table, corpus.title, remedy))


def _shards_digest(urls: str) -> str:
    from datamodules.pair_shards import check_shards, list_shards, read_manifest  # here, as above

    shards = list_shards(urls)
    check_shards(shards)
    listed = {shard["name"]: shard for shard in read_manifest(shards).get("shards", [])}
    described = [listed.get(Path(shard).name) or _described(shard) for shard in shards]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _described(shard: str) -> dict[str, Any]:
    path = Path(shard.removeprefix("file:"))
    return (
        {"name": path.name, "bytes": path.stat().st_size}
        if path.is_file()
        else {"url": without_secrets(shard)}
    )
