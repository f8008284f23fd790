"""One sample of a tar shard: an image and what its text members say of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.captions import SPACING
from datamodules.image_reading import IMAGE_SUFFIXES, read_image
from datamodules.record import Record
from datamodules.redaction import redacted

_IMAGE_KEYS = tuple(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))
_TEXTS = ("caption", "plane", "brain_plane")
_NUMBERS = ("hc_mm", "pixel_size_mm", "ga_days")


def decode_sample(raw: dict[str, Any], rng: np.random.Generator) -> tuple[Record, np.ndarray]:
    """Turn the members of a tar file that share a key into a record and its image, uint8 [H, W] or [H, W, 3].

    The caption comes from the JSON member's ``captions`` (one is drawn) or ``caption``, else from ``txt``.

    Args:
        raw: Encoded members by extension, and ``__url__`` and ``__key__``, as webdataset groups them.
        rng: Draws the caption.

    Raises:
        ValueError: A member is missing, unreadable or says what cannot be; the message names shard and key.
    """
    name = f"{redacted(raw['__url__'])}: {raw['__key__']}"
    facts = _facts(raw, name)
    captions = facts.get("captions") or [facts.get("caption") or _text(raw, name)]
    caption = captions[int(rng.integers(len(captions)))]
    if not caption.strip():
        raise ValueError(f"{name}: the caption is empty")
    if SPACING in caption and facts.get("pixel_size_mm") is None:
        raise ValueError(f"{name}: the caption needs the pixel size, which the json member does not give")
    image_key = next((key for key in _IMAGE_KEYS if key in raw), None)
    if image_key is None:
        raise ValueError(f"{name}: no image among its members {[k for k in raw if not k.startswith('__')]}")
    record = Record(
        corpus="shards",
        name=raw["__key__"],
        image=Path(raw["__url__"]),
        patient=str(facts.get("patient", raw["__key__"])),
        plane=facts.get("plane"),
        brain_plane=facts.get("brain_plane"),
        hc_mm=facts.get("hc_mm"),
        pixel_size_mm=facts.get("pixel_size_mm"),
        ga_days=facts.get("ga_days"),
        caption=caption,
    )
    return record, read_image(raw[image_key], name)


def _text(raw: dict[str, Any], name: str) -> str:
    try:
        text: str = raw.get("txt", b"").decode("utf-8")
    except ValueError as error:
        raise ValueError(f"{name}: unreadable text ({error})") from None
    return text.strip()


def _facts(raw: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the JSON member, whose every fact is absent, null or of its kind."""
    try:
        facts = json.loads(raw.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: unreadable text ({error})") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{name}: its json member is no object")
    captions = facts.get("captions")
    if captions is not None and not (
        isinstance(captions, list) and all(isinstance(c, str) for c in captions)
    ):
        raise ValueError(f"{name}: captions is {_quoted(captions)}, not a list of texts")
    for key in _TEXTS:
        if not isinstance(facts.get(key), str | None):
            raise ValueError(f"{name}: {key} is {_quoted(facts[key])}, not a text")
    for key in _NUMBERS:
        if not _is_number(facts.get(key)):
            raise ValueError(f"{name}: {key} is {_quoted(facts[key])}, not a positive finite number or null")
    return facts


def _is_number(value: Any) -> bool:
    if value is None:
        return True
    return type(value) in (int, float) and 0 < value <= sys.float_info.max


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
