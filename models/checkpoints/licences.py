"""Licences of published weights, and how to recognise their files.

A student inherits the terms of its teacher and of its starting point, so they are logged when weights are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.files import sha256

CC_BY_NC = "CC BY-NC 4.0: no commercial use"
WEIGHT_LICENCES = {
    "MobileCLIP2-S0": "Apple Machine Learning Research Model licence (apple-amlr): research use only",
    "FetalCLIP": CC_BY_NC,
    "MobileFetalCLIP": CC_BY_NC,
}
"""Terms by architecture or release, as their publishers state them."""
UNKNOWN_LICENCE = "unknown: check the terms where the file comes from"
NOTHING_INHERITED = "nothing inherited: trained from random weights"
FETALCLIP_PROMPTS = CC_BY_NC
"""Terms of the prompts that `make import-protocol` reads from a checkout of FetalCLIP."""


@dataclass(frozen=True)
class PublishedFile:
    """A file of published weights: size in bytes, SHA-256 in hexadecimal, what it is, where it is published, terms."""

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
    PublishedFile(
        size=6_751_010,
        sha256="316ab6394912d2b28471b2807055cca3a3dc8f1ec93dc06ffa5661fe1e6f1ad1",
        name="SonoDistill's teacher of the phantom",
        source="models/teachers/phantom.md",
        licence="Apache-2.0",
    ),
)
"""Sizes and digests: FetalCLIP's and MobileFetalCLIP's from the publishers' Git LFS pointers."""


def licence_of(name: str) -> str:
    """Return the terms of a model's published weights, or a reminder to check them."""
    return WEIGHT_LICENCES.get(name, UNKNOWN_LICENCE)


def published_file(path: str | Path) -> PublishedFile | None:
    """Identify a published file by size and SHA-256; None for any other file."""
    path = Path(path)
    candidates = [file for file in PUBLISHED_FILES if file.size == path.stat().st_size]
    found = sha256(path) if candidates else ""
    return next((file for file in candidates if file.sha256 == found), None)


def unidentified_licence(name: str) -> str:
    """Return the licence of a file of unknown origin; for a published architecture with the terms of its weights."""
    known = WEIGHT_LICENCES.get(name)
    return UNKNOWN_LICENCE + (f" (published {name} weights: {known})" if known else "")
