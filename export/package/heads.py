"""Files of the zero-shot heads: JSON that describes the vectors, beside raw little-endian floats.

Swift, Kotlin and JavaScript read the floats as they are. Hashes tie both files to their prompts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.graphs.heads import AgeHead, ClassHead
from metrics import AGES_DAYS
from models.files import sha256
from models.zero_shot import COSINE_SCALE


def prompts_digest(prompts: Any) -> str:
    """Return the SHA-256 of prompts; it changes with any word and with the order of classes."""
    return hashlib.sha256(json.dumps(prompts, ensure_ascii=False).encode()).hexdigest()


def write_class_head(head: ClassHead, folder: Path, ties: Mapping[str, str]) -> Path:
    """Write ``<name>.json`` and ``<name>.f32``, tied to a student, and return the JSON's path."""
    prompts = {label: list(texts) for label, texts in head.prompts.items()}
    return _write(
        folder / f"{head.name}.json",
        head.vectors.numpy().astype("<f4"),
        {
            "kind": "classes",
            "labels": head.labels,
            "cosine_scale": COSINE_SCALE,
            "use": "probabilities = softmax(cosine_scale * vectors @ embedding)",
            "prompts": prompts,
            "prompts_sha256": prompts_digest(prompts),
            **ties,
        },
    )


def write_age_head(head: AgeHead, folder: Path, ties: Mapping[str, str]) -> Path:
    """Write ``ages.json`` and ``ages.f16``, tied to a student, and return the JSON's path."""
    templates = list(head.templates)
    return _write(
        folder / "ages.json",
        head.table.vectors.numpy().astype("<f2"),
        {
            "kind": "ages",
            "spacings_mm_per_px": list(head.table.spacings),
            "ages_days": [AGES_DAYS[0], AGES_DAYS[-1]],
            "cosine_scale": COSINE_SCALE,
            "use": "take the rows of the spacing nearest to longer_side / input_side * pixel_size_mm; the "
            "age is the middle one, in days, of the 15 ages with the highest vectors @ embedding",
            "prompts": templates,
            "prompts_sha256": prompts_digest(templates),
            **ties,
        },
    )


def _write(path: Path, values: NDArray[Any], description: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    binary = path.with_suffix(f".f{8 * values.itemsize}")
    binary.write_bytes(np.ascontiguousarray(values).tobytes())
    storage = {
        "file": binary.name,
        "shape": list(values.shape),
        "dtype": "float32" if values.itemsize == 4 else "float16",
        "byte_order": "little",
        "sha256": sha256(binary),
    }
    path.write_text(
        json.dumps({**description, **storage}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return path


def read_head(path: Path) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Read a head back.

    Returns:
        Its description, and its vectors [C, D] or [S, 175, D] as float32.

    Raises:
        ValueError: The numbers do not match their hash, or the prompts theirs.
    """
    head = json.loads(path.read_text(encoding="utf-8"))
    binary = path.with_name(head["file"])
    if sha256(binary) != head["sha256"]:
        raise ValueError(f"{binary}: its hash is not the one in {path.name}; export again")
    if prompts_digest(head["prompts"]) != head["prompts_sha256"]:
        raise ValueError(
            f"{path}: the prompts were edited after the vectors were made from them; export again"
        )
    dtype = "<f4" if head["dtype"] == "float32" else "<f2"
    vectors = np.frombuffer(binary.read_bytes(), dtype=dtype).reshape(head["shape"])
    return head, vectors.astype(np.float32)
