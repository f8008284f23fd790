"""Decode one sample of a tar shard: an image and the facts of its text members."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.pairs.captions import SPACING
from datamodules.pairs.image_reading import IMAGE_SUFFIXES, read_image
from datamodules.record import Record
from datamodules.redaction import redacted

_IMAGE_KEYS = tuple(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))
_TEXTS = ("plane", "brain_plane")
_NUMBERS = ("hc_mm", "pixel_size_mm", "ga_days")
# Member of the JSON object -> what it must be unless it is absent or null, and the check of that.
_KINDS = {
    "captions": ("a list of texts", lambda v: isinstance(v, list) and all(isinstance(c, str) for c in v)),
    **dict.fromkeys(("caption", *_TEXTS), ("a text", lambda v: isinstance(v, str))),
    **dict.fromkeys(
        _NUMBERS,
        (
            "a positive finite number or null",
            lambda v: type(v) in (int, float) and 0 < v <= sys.float_info.max,
        ),
    ),
}


def decode_sample(raw: dict[str, Any], rng: np.random.Generator) -> tuple[Record, np.ndarray]:
    """Decode the members of a tar file that share a key: a record and its image, uint8 [H, W] or [H, W, 3].

    The caption comes from the JSON member's ``captions`` (one is drawn) or ``caption``, else from ``txt``.

    Args:
        raw: Encoded members by extension, and ``__url__`` and ``__key__``, as webdataset groups them.
        rng: Draws the caption.

    Raises:
        ValueError: A member is missing, unreadable or of the wrong kind; the message names shard and key.
    """
    name = f"{redacted(raw['__url__'])}: {raw['__key__']}"
    try:
        facts = json.loads(raw.get("json", b"{}"))
        text = raw.get("txt", b"").decode("utf-8").strip()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: unreadable text ({error})") from None
    _check_facts(facts, name)
    captions = facts.get("captions") or [facts.get("caption") or text]
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
        caption=caption,
        **{key: facts.get(key) for key in (*_TEXTS, *_NUMBERS)},
    )
    return record, read_image(raw[image_key], name)


def _check_facts(facts: Any, name: str) -> None:
    if not isinstance(facts, dict):
        raise ValueError(f"{name}: its json member is not an object")
    for key, (kind, fits) in _KINDS.items():
        value = facts.get(key)
        if value is not None and not fits(value):
            text = json.dumps(value, ensure_ascii=False)
            raise ValueError(f"{name}: {key} is {text if len(text) <= 40 else text[:37] + '...'}, not {kind}")
