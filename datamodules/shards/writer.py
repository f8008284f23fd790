"""Write an open pre-training corpus as WebDataset shards.

Shards contain whole patients in random order, so that leaving shards out is a split by patient. Every sample
has its image, a ``txt`` caption for any WebDataset reader, and a ``json`` member with the known facts and all fitting
captions (with ``{spacing}`` unfilled, as `datamodules.shards.sample` reads them).
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from PIL import Image
from tqdm import tqdm

from datamodules.corpora.catalogue import CORPORA
from datamodules.corpora.corpus import counts
from datamodules.pairs.captions import caption_templates, render_spacing
from datamodules.pairs.image_reading import image_size, read_image
from datamodules.record import Record
from datamodules.shards.pair_shards import MANIFEST
from models.files import atomic, digest, sha256, write_json

TEXT_IMAGE_SIZE = 224  # model image size, in pixels, that the spacing in ``txt`` captions refers to
# Files that are copied unchanged; others become PNG.
_KEPT_SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg"}


@dataclass(frozen=True)
class ShardSettings:
    """Settings of `write_shards`.

    Attributes:
        samples_per_shard: A shard ends with the first patient that fills it.
        seed: Seed of the order of patients, and of images within a shard.

    Raises:
        ValueError: `samples_per_shard` is below 1, or the seed below 0.
    """

    samples_per_shard: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("samples_per_shard", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"shards: {name} is {getattr(self, name)}, it must be at least {least}")


def collect(roots: dict[str, Path], exclude_test: bool) -> tuple[list[Record], list[dict[str, Any]]]:
    """Read public corpora and describe them for the manifest.

    Args:
        roots: Name of a corpus -> its folder.
        exclude_test: Leave validation and test patients out.

    Raises:
        ValueError: A table is malformed.
        FileNotFoundError: Images are missing.
    """
    records: list[Record] = []
    sources = []
    for name, root in sorted(roots.items()):
        corpus = CORPORA[name]
        ours = corpus.assign_splits(corpus.read(root))
        ours, left_out = without_evaluation_patients(ours) if exclude_test else (ours, 0)
        described = {key: getattr(corpus, key) for key in ("name", "title", "source", "licence", "citation")}
        sources.append({**described, "evaluation_images_left_out": left_out, "counts": counts(ours)})
        records += ours
    return records, sources


def without_evaluation_patients(records: list[Record]) -> tuple[list[Record], int]:
    """Remove every patient with an image outside training; return the rest and the number of removed images.

    If a table has a patient on both sides, all images of the patient are removed.
    """
    evaluated = {(record.corpus, record.patient) for record in records if record.split != "train"}
    kept = [
        replace(record, split=None) for record in records if (record.corpus, record.patient) not in evaluated
    ]
    return kept, len(records) - len(kept)


def plan_shards(records: list[Record], settings: ShardSettings) -> list[list[Record]]:
    """Distribute records: patients in random order, whole patients to a shard, images of a shard in random order."""
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
    records: list[Record], out: Path, settings: ShardSettings, sources: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write the shards and their manifest; a second call continues an interrupted one.

    The manifest is rewritten after every shard, so finished shards are never written again.

    Args:
        records: The images.
        out: Folder for ``pairs-000000.tar``, ... and ``manifest.json``.
        settings: See `ShardSettings`.
        sources: Description of the corpora for the manifest, from `collect`.

    Returns:
        The manifest.

    Raises:
        ValueError: `out` has shards of another corpus, or an image cannot be read.
    """
    if not records:
        raise ValueError("shards: no image is left to write")
    plan = plan_shards(records, settings)
    manifest = _open_manifest(out, plan, settings, sources)
    for abandoned in out.glob(".pairs-*.partial.tar"):  # of a killed process
        abandoned.unlink()
    # Shards are written in order, so the finished ones come first.
    finished = len(manifest["shards"])
    written = sum(shard["samples"] for shard in manifest["shards"])
    with tqdm(total=len(records), initial=written, desc="writing", unit="image", disable=None) as bar:
        for number, shard in enumerate(plan[finished:], finished):
            path = out / f"pairs-{number:06d}.tar"
            # Not wds.ShardWriter: after an error it closes a partial shard like a finished one.
            with (
                atomic(path) as partial,
                partial.open("wb") as file,
                wds.TarWriter(file, "", "", encoder=False, mtime=0) as writer,
            ):
                for record in shard:
                    writer.write(encode_sample(record))
                    bar.update()
            manifest["shards"].append(
                {
                    "name": path.name,
                    "samples": len(shard),
                    "bytes": path.stat().st_size,
                    "sha256": sha256(path),
                }
            )
            write_json(out / MANIFEST, manifest)
    manifest["complete"] = True
    write_json(out / MANIFEST, manifest)
    return manifest


def verify_shards(out: Path) -> list[str]:
    """Compare written shards with the hashes of their manifest and return the problems.

    Raises:
        FileNotFoundError: There is no manifest.
    """
    manifest = _read_manifest(out)
    problems = (
        [] if manifest["complete"] else ["the corpus is incomplete: run make shards again to finish it"]
    )
    for shard in manifest["shards"]:
        path = out / shard["name"]
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif sha256(path) != shard["sha256"]:
            problems.append(f"{path} has changed since it was written")
    return problems


def encode_sample(record: Record) -> dict[str, Any]:
    """Encode a record as the members of its sample.

    Raises:
        ValueError: The image cannot be read.
    """
    pixels = read_image(record.image)  # also of files that are copied: no broken image may be published
    width, height = image_size(record.image)
    captions = caption_templates(record)
    own = ("name", "image", "caption", "split")
    facts = {key: value for key, value in asdict(record).items() if value is not None and key not in own}
    text = render_spacing(
        captions[0],
        width=width,
        height=height,
        image_size=TEXT_IMAGE_SIZE,
        pixel_size_mm=record.pixel_size_mm,
    )
    suffix, content = _KEPT_SUFFIXES.get(record.image.suffix.casefold()), io.BytesIO()
    if suffix is None:
        Image.fromarray(pixels).save(content, format="PNG")
    return {
        # A dot would end the key in WebDataset's naming.
        "__key__": re.sub(r"[^\w-]+", "_", f"{record.corpus}-{Path(record.name).stem}"),
        suffix or "png": record.image.read_bytes() if suffix else content.getvalue(),
        "txt": text.encode(),
        "json": json.dumps({**facts, "captions": captions}, ensure_ascii=False).encode(),
    }


def _open_manifest(
    out: Path, plan: list[list[Record]], settings: ShardSettings, sources: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the manifest of an interrupted call, or a new one."""
    # Identifies everything that determines the content of the shards, except where the files lie.
    described = [
        [{**asdict(r), "image": r.image.name, "bytes": r.image.stat().st_size} for r in shard]
        for shard in plan
    ]
    fingerprint = digest([described, asdict(settings)])
    if (out / MANIFEST).is_file():
        manifest = _read_manifest(out)
        if manifest["plan"] != fingerprint:
            raise ValueError(f"{out} has shards of other images or settings; choose another folder")
        return manifest
    if any(out.glob("[!.]*.tar")):
        raise ValueError(f"{out} has tar files without a {MANIFEST}; choose an empty folder")
    return {
        "plan": fingerprint, "complete": False, "settings": asdict(settings), "sources": sources, "shards": [],
    }  # fmt: skip


def _read_manifest(out: Path) -> dict[str, Any]:
    if not (out / MANIFEST).is_file():
        raise FileNotFoundError(f"{out / MANIFEST} is missing: {out} was not written by make shards")
    manifest: dict[str, Any] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    return manifest
