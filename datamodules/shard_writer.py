"""Write an open pre-training corpus as WebDataset shards.

Shards hold whole patients in random order, so that leaving shards out is a split by patient. Every sample
has its image, a ``txt`` caption for any WebDataset reader, and a ``json`` member with what is known and with
all captions that fit (``{spacing}`` open in them, as `datamodules.shard_stream` reads them).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from PIL import Image

from datamodules.captions import caption_templates, render_spacing
from datamodules.image_reading import image_size, read_image
from datamodules.pair_shards import MANIFEST
from datamodules.record import Record

# Copied as they are; anything else becomes a PNG.
_KEPT_SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg"}


@dataclass(frozen=True)
class ShardSettings:
    """How a corpus is cut into shards.

    Attributes:
        samples_per_shard: A shard is closed by the first patient that fills it.
        seed: Order of the patients and of the images in a shard.
        spacing_image_size: Model size that the pixel spacing in ``txt`` captions refers to.

    Raises:
        ValueError: A size is below 1, or the seed below 0.
    """

    samples_per_shard: int = 500
    seed: int = 0
    spacing_image_size: int = 224

    def __post_init__(self) -> None:
        for name, least in (("samples_per_shard", 1), ("seed", 0), ("spacing_image_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"shards: {name} is {getattr(self, name)}, it must be at least {least}")


def plan_shards(records: list[Record], settings: ShardSettings) -> list[list[Record]]:
    """Deal the records out: patients in random order, whole patients to a shard, images in random order."""
    rng = np.random.default_rng(settings.seed)
    patients: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.corpus, record.name)):
        patients[(record.corpus, record.patient)].append(record)
    groups = list(patients.values())
    shards: list[list[Record]] = [[]]
    for number in rng.permutation(len(groups)):
        if len(shards[-1]) >= settings.samples_per_shard:
            shards.append([])
        shards[-1].extend(groups[number])
    return [[shard[number] for number in rng.permutation(len(shard))] for shard in shards]


def write_shards(
    records: list[Record],
    out: Path,
    settings: ShardSettings,
    sources: list[dict[str, Any]],
    progress: Callable[[Iterable[Record], int], Iterator[Record]],
) -> dict[str, Any]:
    """Write the shards and their manifest; a second call continues an interrupted one.

    The manifest is rewritten after every shard, so finished shards are never written again.

    Args:
        records: The images; all of them end up in a shard.
        out: Folder for ``pairs-000000.tar``, ... and ``manifest.json``.
        settings: How to cut.
        sources: What the manifest says of the corpora: licences, counts.
        progress: Wraps the records that remain to be written, given their number.

    Returns:
        The manifest.

    Raises:
        ValueError: `out` holds the shards of another corpus, or an image cannot be read.
    """
    if not records:
        raise ValueError("shards: no image is left to write")
    out.mkdir(parents=True, exist_ok=True)
    plan = plan_shards(records, settings)
    manifest = _begin(out, _fingerprint(plan, settings), settings, sources)
    finished = {shard["name"] for shard in manifest["shards"]}
    todo = [(f"pairs-{number:06d}.tar", shard) for number, shard in enumerate(plan)]
    todo = [(name, shard) for name, shard in todo if name not in finished]
    remaining = progress((record for _, shard in todo for record in shard), sum(len(s) for _, s in todo))
    for name, shard in todo:
        manifest["shards"].append(_write_shard(out / name, remaining, len(shard), settings))
        _save(out, manifest)
    manifest["shards"].sort(key=lambda shard: str(shard["name"]))
    manifest["complete"] = True
    _save(out, manifest)
    return manifest


def verify_shards(out: Path) -> list[str]:
    """Return what is wrong with finished shards, from the manifest's hashes; nothing when all is well.

    Raises:
        FileNotFoundError: There is no manifest.
    """
    manifest = _load(out)
    problems = [] if manifest["complete"] else ["the corpus is incomplete: make it again to finish it"]
    for shard in manifest["shards"]:
        path = out / shard["name"]
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif _sha256(path) != shard["sha256"]:
            problems.append(f"{path} has changed since it was written")
    return problems


def _write_shard(
    path: Path, records: Iterator[Record], count: int, settings: ShardSettings
) -> dict[str, Any]:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file, wds.TarWriter(file, "", "", encoder=False, mtime=0) as writer:
        for _ in range(count):
            writer.write(encode_sample(next(records), settings))
    partial.replace(path)
    return {"name": path.name, "samples": count, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def encode_sample(record: Record, settings: ShardSettings) -> dict[str, Any]:
    """Turn a record into the members of its sample.

    Raises:
        ValueError: The image cannot be read.
    """
    read_image(record.image)  # a broken image must not get into a corpus that others download
    width, height = image_size(record.image)
    captions = caption_templates(record)
    facts = {key: value for key, value in asdict(record).items() if value is not None}
    facts = {key: facts[key] for key in facts if key not in ("name", "image", "caption", "split")}
    text = render_spacing(
        captions[0],
        width=width,
        height=height,
        image_size=settings.spacing_image_size,
        pixel_size_mm=record.pixel_size_mm,
    )
    suffix = _KEPT_SUFFIXES.get(record.image.suffix.casefold())
    return {
        # A dot would end the key in WebDataset's naming.
        "__key__": re.sub(r"[^\w-]+", "_", f"{record.corpus}-{Path(record.name).stem}"),
        suffix or "png": record.image.read_bytes() if suffix else _png(record.image),
        "txt": text.encode(),
        "json": json.dumps({**facts, "captions": captions}, ensure_ascii=False).encode(),
    }


def without_evaluation_patients(records: list[Record]) -> tuple[list[Record], int]:
    """Leave out every patient with an image outside training; return the rest and how many images went.

    A table may have one patient on both sides: then all of the patient's images go.
    """
    evaluated = {(record.corpus, record.patient) for record in records if record.split != "train"}
    kept = [
        replace(record, split=None) for record in records if (record.corpus, record.patient) not in evaluated
    ]
    return kept, len(records) - len(kept)


def _png(path: Path) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(read_image(path)).save(buffer, format="PNG")
    return buffer.getvalue()


def _begin(
    out: Path, fingerprint: str, settings: ShardSettings, sources: list[dict[str, Any]]
) -> dict[str, Any]:
    if (out / MANIFEST).is_file():
        manifest = _load(out)
        if manifest["plan"] != fingerprint:
            raise ValueError(f"{out} holds shards of other images or settings; choose another folder")
        return manifest
    if any(out.glob("*.tar")):
        raise ValueError(f"{out} holds tar files without a {MANIFEST}; choose an empty folder")
    return {
        "plan": fingerprint,
        "complete": False,
        "settings": asdict(settings),
        "sources": sources,
        "shards": [],
    }


def _load(out: Path) -> dict[str, Any]:
    if not (out / MANIFEST).is_file():
        raise FileNotFoundError(f"{out / MANIFEST} is missing: {out} was not written by this project")
    manifest: dict[str, Any] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def _save(out: Path, manifest: dict[str, Any]) -> None:
    partial = out / f".{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(out / MANIFEST)


def _fingerprint(plan: list[list[Record]], settings: ShardSettings) -> str:
    """Hash everything that the shards' content depends on, but where the files lie."""
    described = [
        [
            {**asdict(record), "image": record.image.name, "bytes": record.image.stat().st_size}
            for record in shard
        ]
        for shard in plan
    ]
    text = json.dumps([described, asdict(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
