"""Write an open pre-training corpus as WebDataset shards.

Shards contain whole patients in random order, so that leaving shards out is a split by patient. Every sample
has its image, a ``txt`` caption for any WebDataset reader, and a ``json`` member with the known facts and all fitting
captions (with ``{spacing}`` unfilled, as `datamodules.shards.stream` reads them).
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import webdataset as wds
from PIL import Image

from datamodules.corpora.check import benchmark_copies
from datamodules.corpora.copies import perceptual_hash, scan_images
from datamodules.corpora.corpus import counts, with_splits
from datamodules.corpora.public import CORPORA
from datamodules.corpora.records import table_records
from datamodules.pairs.captions import caption_templates, render_spacing
from datamodules.pairs.image_reading import IMAGE_SUFFIXES, read_image
from datamodules.progress import with_progress
from datamodules.record import Record
from datamodules.shards.manifest import MANIFEST, local_manifest
from models.files import atomic, digest, sha256, write_json
from models.messages import one_line

TEXT_IMAGE_SIZE = 224  # model image size, in pixels, that the spacing in ``txt`` captions refers to
# Files that are copied unchanged; others become PNG.
_KEPT_SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg"}


def collect(
    roots: dict[str, Path],
    exclude_test: bool,
    exclude: Sequence[tuple[str, Path]] = (),
    workers: int = 1,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> tuple[list[Record], list[dict[str, Any]]]:
    """Read corpora, and a user's tables by name, and describe them for the manifest.

    Args:
        roots: Name of a corpus -> its folder.
        exclude_test: Whether to leave out validation and test patients.
        exclude: Name and folder of each corpus of which no image, nor a copy of one, may occur.
        workers: Processes that decode images to compare them with those of `exclude`.
        tables: Name in the manifest -> table of a user's own.
    """
    read: list[tuple[dict[str, Any], list[Record]]] = []
    for name, root in sorted(roots.items()):
        corpus = CORPORA[name]
        described = {key: getattr(corpus, key) for key in ("name", "title", "source", "licence", "citation")}
        read.append((described, corpus.assign_splits(corpus.read(root))))
    for name, table in (tables or {}).items():
        described = {"name": name, "title": name, "source": "a table of one's own", "licence": "not stated"}
        # Split before the corpus gets its name, on which the split depends: as `TableDataModule` does.
        split = with_splits(table_records(table))
        read.append((described, [replace(record, corpus=name) for record in split]))
    # Tables may share patients, of whom one table may test and another train. Images of unknown patients share none.
    evaluated = {
        record.patient
        for described, every in read
        if described["name"] not in CORPORA
        for record in every
        if record.split != "train" and record.patient != record.name
    }
    records: list[Record] = []
    sources = []
    for described, every in read:
        others = frozenset() if described["name"] in CORPORA else evaluated
        ours, left_out = without_evaluation_patients(every, others) if exclude_test else (every, 0)
        described["evaluation_images_left_out"] = left_out
        if exclude:
            copies = benchmark_copies(scan_images(ours, workers), exclude, workers)
            ours = [record for row, record in enumerate(ours) if row not in copies]
            described["benchmark_copies_left_out"] = Counter(copy.split()[0] for copy in copies.values())
        sources.append({**described, "counts": counts(ours)})
        records += ours
    return records, sources


def without_evaluation_patients(
    records: list[Record], others: Collection[str] = ()
) -> tuple[list[Record], int]:
    """Remove every patient with an image outside training, and the patients `others` of any corpus.

    Returns:
        The rest, and the number of removed images.
    """
    evaluated = {(record.corpus, record.patient) for record in records if record.split != "train"}
    kept = [
        replace(r, split=None)
        for r in records
        if (r.corpus, r.patient) not in evaluated and r.patient not in others
    ]
    return kept, len(records) - len(kept)


def plan_shards(records: list[Record], samples_per_shard: int, seed: int) -> list[list[Record]]:
    """Distribute records: patients in random order, whole patients to a shard, images of a shard in random order.

    A shard ends with the first patient that fills it.
    """
    rng = np.random.default_rng(seed)
    patients: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.corpus, record.name)):
        patients[(record.corpus, record.patient)].append(record)
    groups = list(patients.values())
    shards: list[list[Record]] = [[]]
    for number in rng.permutation(len(groups)):
        if len(shards[-1]) >= samples_per_shard:
            shards.append([])
        shards[-1].extend(groups[number])
    return [[shard[number] for number in rng.permutation(len(shard))] for shard in shards]


def write_shards(
    records: list[Record],
    out: Path,
    sources: list[dict[str, Any]],
    samples_per_shard: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Write ``pairs-000000.tar``, ... and ``manifest.json`` into `out`, and return the manifest.

    The manifest, with the `sources` of `collect`, is rewritten after every shard, so a second call continues an
    interrupted one.

    Raises:
        ValueError: `out` has shards of other images, an image cannot be read, or none of its captions be written.
    """
    if not records:
        raise ValueError("shards: no image is left to write")
    for record in records:
        caption_templates(record)  # a row without caption ends the command before hours of writing
    plan = plan_shards(records, samples_per_shard, seed)
    manifest = _open_manifest(out, plan, {"samples_per_shard": samples_per_shard, "seed": seed}, sources)
    finished = len(manifest["shards"])
    rest = with_progress(plan[finished:], len(plan), "writing", " shards", finished)
    for number, shard in enumerate(rest, finished):
        path = out / f"pairs-{number:06d}.tar"
        # Not wds.ShardWriter: after an error it closes a partial shard like a finished one.
        with (
            atomic(path) as partial,
            partial.open("wb") as file,
            wds.TarWriter(file, "", "", encoder=False, mtime=0) as writer,
        ):
            for place, record in enumerate(shard):
                sample = encode_sample(record)
                if record.corpus not in CORPORA:  # the names of a user's own files may identify patients
                    sample["__key__"] = f"{record.corpus}-{number:06d}-{place:06d}"
                writer.write(sample)
        manifest["shards"].append(
            {"name": path.name, "samples": len(shard), "bytes": path.stat().st_size, "sha256": sha256(path)}
        )
        write_json(out / MANIFEST, manifest)
    manifest["complete"] = True
    write_json(out / MANIFEST, manifest)
    return manifest


def verify_shards(out: Path) -> list[str]:
    """Compare written shards with the hashes of their manifest and return the problems."""
    manifest, problems = local_manifest(out), []
    if not manifest.get("complete", True):
        problems.append("the corpus is incomplete: run make shards again to finish it")
    elif not manifest.get("shards"):
        problems.append(f"{out / MANIFEST} lists no shards")
    listed = {shard["name"] for shard in manifest.get("shards", [])}
    found = {path.name for path in out.glob("[!.]*.tar")}
    problems += [f"{out / name} is not in {MANIFEST}" for name in sorted(found - listed)]
    for shard in manifest.get("shards", []):
        path = out / shard["name"]
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif (size := path.stat().st_size) != (shard.get("bytes") or size) or (
            shard.get("sha256") and sha256(path) != shard["sha256"]
        ):
            problems.append(f"{path} has changed since it was written")
    return problems


def scan_shards(out: Path) -> pd.DataFrame:
    """Scan the tar files of a folder.

    Returns:
        A row for each image: ``name``, ``perceptual_hash`` and ``error`` (why it cannot be read); also one with an
        ``error`` for each tar file that cannot be read to its end.

    Raises:
        FileNotFoundError: The folder has no tar file with an image.
    """
    rows = [row for path in sorted(out.glob("[!.]*.tar")) for row in _scan_shard(path)]
    if not rows:
        raise FileNotFoundError(f"{out}: no tar file with images here")
    return pd.DataFrame(rows, columns=["name", "perceptual_hash", "error"])


def _scan_shard(path: Path) -> Iterator[tuple[str, bytes | None, str | None]]:
    try:
        with tarfile.open(path) as shard:
            for member in shard:
                file = shard.extractfile(member)
                if file is None or Path(member.name).suffix.casefold() not in IMAGE_SUFFIXES:
                    continue
                name = f"{path.name}/{member.name}"
                try:
                    yield name, perceptual_hash(read_image(file.read(), name)), None
                except ValueError as error:
                    yield name, None, one_line(error)
            # Python takes a damaged header for the end.
            stream: Any = shard.fileobj
            stream.seek(shard.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("damaged or cut off: the mark of its end is missing")
    except (tarfile.TarError, OSError) as error:
        yield path.name, None, f"{path.name}: {one_line(error)}"


def encode_sample(record: Record) -> dict[str, Any]:
    """Encode a record as the members of its sample; of a user's own images without patient, name and file metadata."""
    public = record.corpus in CORPORA
    pixels = read_image(record.image)  # also of files that are copied: no broken image may be published
    captions = caption_templates(record)
    own = ("name", "image", "caption", "split", "others", *(() if public else ("patient", "operator")))
    facts = {key: value for key, value in asdict(record).items() if value is not None and key not in own}
    size = (pixels.shape[1], pixels.shape[0])
    text = render_spacing(captions[0], size, TEXT_IMAGE_SIZE, record.pixel_size_mm)
    suffix, content = public and _KEPT_SUFFIXES.get(record.image.suffix.casefold()), io.BytesIO()
    if not suffix:
        Image.fromarray(pixels).save(content, format="PNG")
    return {
        # A dot would end the key in WebDataset's naming.
        "__key__": re.sub(r"[^\w-]+", "_", f"{record.corpus}-{Path(record.name).stem}"),
        suffix or "png": record.image.read_bytes() if suffix else content.getvalue(),
        "txt": text.encode(),
        "json": json.dumps({**facts, "captions": captions}, ensure_ascii=False).encode(),
    }


def _open_manifest(
    out: Path, plan: list[list[Record]], settings: dict[str, int], sources: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the manifest of an interrupted call, or a new one."""
    # Identifies everything that determines the content of the shards, except where the files lie.
    described = [
        [asdict(r) | {"image": r.image.name, "bytes": r.image.stat().st_size} for r in s] for s in plan
    ]
    fingerprint = digest([described, settings])
    manifest = {
        "plan": fingerprint,
        "complete": False,
        "settings": settings,
        "sources": sources,
        "shards": [],
    }
    if (out / MANIFEST).is_file():
        found = local_manifest(out)
        if found.get("plan") == fingerprint:
            return {**manifest, "shards": found.get("shards", [])}
        if found.get("shards"):
            raise ValueError(f"{out} has shards of other images or settings; choose another folder")
    elif any(out.glob("[!.]*.tar")):
        raise ValueError(f"{out} has tar files without a {MANIFEST}; choose an empty folder")
    write_json(out / MANIFEST, manifest)  # before any shard, which a killed call would else leave without one
    return manifest
