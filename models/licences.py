"""Licences of the published weights, and how to recognise their files.

A student inherits the terms of its teacher and of its starting point, so they are logged when weights are loaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

CC_BY_NC = "CC BY-NC 4.0: no commercial use"
WEIGHT_LICENCES = {
    "MobileCLIP2-S0": "Apple Machine Learning Research Model licence (apple-amlr): research use only",
    "FetalCLIP": CC_BY_NC,
    "MobileFetalCLIP": CC_BY_NC,
}
"""Terms by architecture or release, as their publishers state them."""
FETALCLIP_PROMPTS = CC_BY_NC
"""Terms of the prompts that `make import-protocol` reads from a checkout of FetalCLIP."""


@dataclass(frozen=True)
class PublishedFile:
    """A file of published weights.

    Attributes:
        size: Its size in bytes.
        sha256: Its SHA-256, in hexadecimal.
        name: What it is.
        source: Where it is published.
        licence: Under which terms.
    """

    size: int
    sha256: str
    name: str
    source: str
    licence: str


PUBLISHED_FILES: tuple[PublishedFile, ...] = (
    PublishedFile(
        size=1_710_766_661,
        sha256="90916caa408baf9374ee3f8c1533463331a4ace37a13e61385e782905b35c310",
        name="FetalCLIP, the paper's teacher",
        source="huggingface.co/numansaeed/fetalclip-model",
        licence=WEIGHT_LICENCES["FetalCLIP"],
    ),
    PublishedFile(
        size=899_205_165,
        sha256="50ab0669d2f5de80e8d75ef2f3bda054410e3af7db85ac2fa7f045550daf46f1",
        name="MobileFetalCLIP, the paper's released student",
        source="huggingface.co/numansaeed/MobileFetalCLIP",
        licence=WEIGHT_LICENCES["MobileFetalCLIP"],
    ),
)
"""Sizes and digests as the publisher's Git LFS pointers give them."""


def licence_of(name: str) -> str:
    """Return the terms of a model's published weights, or a reminder to check them."""
    return WEIGHT_LICENCES.get(name, "not known here: check the terms of where the file came from")


def published_file(path: str | Path) -> PublishedFile | None:
    """Return which published file this is, by size and SHA-256; None for any other."""
    size = Path(path).stat().st_size
    candidates = [file for file in PUBLISHED_FILES if file.size == size]
    if not candidates:
        return None
    with Path(path).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return next((file for file in candidates if file.sha256 == digest), None)
