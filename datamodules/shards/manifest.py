"""Manifest of a folder of shards: what ``make shards`` writes beside them, checked before it is used."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from datamodules.redaction import redacted
from models.messages import one_line, problems

MANIFEST = "manifest.json"

FileName = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00-\x1f]{1,255}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class ShardEntry(_Entry):
    """One shard: file name, pairs and, to verify it, size and SHA-256."""

    name: FileName
    samples: Count
    bytes: Count | None = None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class Source(_Entry):
    """One corpus that the pairs come from."""

    name: str
    evaluation_images_left_out: Count = 0


class ShardManifest(_Entry):
    """All shards and their sources; other entries are kept."""

    shards: list[ShardEntry] = []
    sources: list[Source] = []
    complete: bool = True
    plan: str = ""


def parse_manifest(content: bytes, place: str) -> dict[str, Any]:
    """Return the content of a manifest.

    Raises:
        ValueError: It is not one; the message is one line of at most 500 characters that names `place` and key.
    """
    try:
        return ShardManifest.model_validate_json(content).model_dump(exclude_unset=True)
    except ValidationError as error:
        line = f"{redacted(place)[-200:]}: not a manifest of shards: {problems(error)}"
        raise ValueError(one_line(line, 500)) from None


def local_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest in a folder of shards."""
    return parse_manifest((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))


def shard_place(url: str) -> tuple[str, str]:
    """Return the folder of a shard, without a URL's query, and its file name, by which the manifest lists it."""
    if "://" not in url:
        path = PurePosixPath(url.removeprefix("file:"))
        return str(path.parent), path.name
    parts = urlsplit(url)
    path = PurePosixPath(parts.path)
    return f"{parts.scheme}://{parts.netloc}{path.parent}", path.name
