"""Digests that identify the inputs of a run by content: weights, prompts, corpora and shards.

Paths cannot identify them: folders move, and other files may lie at the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from datamodules.corpora.corpus import Corpus
from datamodules.corpora.public import CORPORA
from datamodules.corpora.table import list_images, table_files
from datamodules.evaluation.protocol import Protocol
from datamodules.shards.pair_shards import check_shards, list_shards
from datamodules.shards.storage import ShardStorage
from experiments.config import PROTOCOL_OPTION, named_file, resolve
from experiments.process import without_secrets
from experiments.recipe_files import FOLDERS, preset_of
from metrics.benchmarks import benchmarks_of
from models.files import digest, sha256

SHARDS, IMAGES = "SHARDS", "IMAGES"
_STORE = ShardStorage(patience=60)


def content_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file or of a folder saved by `transformers`."""
    return sha256(path)[:16]


def content_digests(arguments: Iterable[str]) -> dict[str, str]:
    """Return the digests of the weights, prompts and settings named by arguments of ``sonodistill train``.

    Returns:
        ``--teacher``, ``--student`` or ``--protocol`` -> `content_digest`, for prompts `Protocol.digest`. The last
        of repeated options counts. ``--config`` -> the digest of all files of settings.
    """
    arguments = list(arguments)
    split = [argument.partition("=") for argument in arguments]
    configs = [Path(value) for option, _, value in split if option == "--config"]
    for path in configs:
        if not path.is_file():
            raise FileNotFoundError(f"--config={path}: no such file")
    named = dict(found for argument in arguments if (found := named_file(argument)) is not None)
    settings = {"--config": digest([content_digest(path) for path in configs])} if configs else {}
    return settings | {
        option: Protocol.load(value).digest if option == PROTOCOL_OPTION else content_digest(Path(value))
        for option, value in named.items()
    }


def corpus_digests(preset: str, arguments: Sequence[str]) -> dict[str, str]:
    """Return the digests of the data that ``sonodistill train`` reads with these arguments; see `place_digests`.

    Tables and prompts of the user's own benchmarks are among them: ``NAME, table`` and ``NAME, prompts``.
    """
    data = resolve("srkd", preset, arguments).data  # the experiment does not change it
    found = place_digests(data_places(data))
    for one in (data.get("init_args") or {}).get("benchmarks") or []:
        if one.get("table"):
            found[f"{one['name']}, table"] = _own_digest(one["table"])
        if one.get("prompts"):
            found[f"{one['name']}, prompts"] = content_digest(Path(one["prompts"]))
    return found


def data_places(data: Namespace) -> dict[str, str]:
    """Return where a data module reads: variable -> folder or URLs; empty for a class of the user's own."""
    preset, settings = preset_of({"data": data}), data.get("init_args") or Namespace()
    places = {variable: settings.get(name) for name, variable in FOLDERS.get(str(preset), {}).items()}
    return {variable: str(place) for variable, place in places.items() if place}


def place_digests(places: Mapping[str, str]) -> dict[str, str]:
    """Return 16-digit SHA-256 digests of corpora and shards.

    A public corpus is identified by its table, a user's data by their tables, images without a table by their names. A
    shard is identified by its entry in the manifest, without one by its name and size, or by its URL. The phantom has
    no digest: its settings define it.

    Args:
        places: ``HC18_ROOT``, ``PLANES_ROOT``, ``SHARDS``, ``TABLE`` or the variable of another preset -> file, folder
            or URLs; the ``IMAGES`` of a table do not count.
    """
    kinds: dict[str, Callable[[str], str]] = {SHARDS: _shards_digest}
    kinds |= {
        corpus.variable: partial(_table_digest, corpus) for corpus in CORPORA.values() if corpus.variable
    }
    return {
        variable: kinds.get(variable, _own_digest)(place)
        for variable, place in places.items()
        if variable != IMAGES
    }


def shard_corpora(data: Namespace) -> dict[str, str]:
    """Return which public corpora with a benchmark the shards of a run contain, according to their manifest.

    Returns:
        Corpus -> "train" for its training patients only, "all" if test patients are included. Empty without shards
        or without a manifest.
    """
    place = data_places(data).get(SHARDS)
    if place is None:
        return {}
    found: dict[str, str] = {}
    scored = [name for name in CORPORA if benchmarks_of(name)]
    for manifest in _STORE.manifests(list_shards(place)).values():
        for source in manifest.get("sources", []):
            if source["name"] in scored and found.get(source["name"]) != "all":
                found[source["name"]] = "train" if source.get("evaluation_images_left_out") else "all"
    return found


def _table_digest(corpus: Corpus, root: str) -> str:
    return content_digest(corpus.find_table(Path(root)))


def _own_digest(path: str) -> str:
    files = [file for file, _ in table_files(Path(path))]
    return digest([content_digest(file) if file.is_file() else list_images(file) for file in files])


def _shards_digest(urls: str) -> str:
    shards = list_shards(urls)
    check_shards(shards)
    listed = _STORE.listed(shards)
    return digest([listed.get(shard) or _described(shard) for shard in shards])


def _described(shard: str) -> dict[str, Any]:
    path = Path(shard.removeprefix("file:"))
    if path.is_file():
        return {"name": path.name, "bytes": path.stat().st_size}
    return {"url": without_secrets(shard)}
