"""The preprocessing contract of an exported model, and the metadata that ties every file to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from models import DualEncoder, Preprocessing
from models.checkpoints.integrity import tensors_digest
from models.text.tokenizer import HF_PREFIX

INPUT_NAME, EMBEDDING_NAME, PROBABILITIES_NAME = "image", "embedding", "probabilities"
TOKENS_NAME, TEXT_EMBEDDING_NAME = "tokens", "text_embedding"
FRAME_NAME = "frame"

METADATA_PREFIX = "sonodistill."
METADATA_CONTRACT = f"{METADATA_PREFIX}contract"
METADATA_ARTIFACT = f"{METADATA_PREFIX}artifact"
METADATA_LICENCE = f"{METADATA_PREFIX}weights_licence"
METADATA_DIGEST = f"{METADATA_PREFIX}contract_sha256"
METADATA_LABELS = f"{METADATA_PREFIX}labels"
TIES = {
    "contract_sha256": "it was exported under another preprocessing contract",
    "model_sha256": "it was made from another student",
}
"""Hashes in every artifact's metadata (behind `METADATA_PREFIX`) -> the error when one is not the manifest's."""


def without_path(preprocessing: Preprocessing) -> Preprocessing:
    """Return a contract that names the folder of a `transformers` tokenizer without its path on this machine."""
    if not preprocessing.tokenizer.startswith(HF_PREFIX):
        return preprocessing
    folder = Path(preprocessing.tokenizer.removeprefix(HF_PREFIX)).resolve()
    return replace(preprocessing, tokenizer=HF_PREFIX + folder.name)


def recipe_without_path(model: DualEncoder) -> dict[str, Any]:
    """Return a model's recipe; the folder of a `transformers` model without its path on this machine."""
    recipe = model.recipe()
    arguments = recipe.get("init_args", {})
    if "folder" not in arguments:
        return recipe
    return {**recipe, "init_args": {**arguments, "folder": Path(arguments["folder"]).resolve().name}}


def contract_of(preprocessing: Preprocessing) -> dict[str, Any]:
    """Describe a model's preprocessing for an app, as primitives.

    The normalisation is inside every exported graph, so an app passes plain pixel values.
    """
    side = preprocessing.image_size
    return {
        "geometry": {
            "pad": "centre the frame on a black square of its longer side; an odd pixel goes right and below",
            "resize": f"antialiased {preprocessing.interpolation} (Pillow's) to {side} x {side} pixels",
        },
        "input": {
            "name": INPUT_NAME,
            "layout": "NCHW",
            "shape": [1, 3, side, side],
            "dtype": "float32",
            "range": [0, 255],
            "colour_order": "RGB",
            "normalisation": "inside the graph; pass pixel values as they are",
        },
        "preprocessing": without_path(preprocessing).to_dict(),
    }


FRAME_INPUT = {
    "geometry": "inside the graph; pass the frame as it is",
    "input": {
        "name": FRAME_NAME,
        "layout": "HWC",
        "shape": ["height", "width", 3],
        "dtype": "uint8",
        "range": [0, 255],
        "colour_order": "RGB",
        "normalisation": "inside the graph; pass pixel values as they are",
    },
}
"""Contract of a graph that pads and resizes, where it differs from `contract_of`."""


def text_input(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the contract of the text tower where it differs from `contract_of`."""
    shape = ["batch", preprocessing.context_length]
    return {
        "geometry": None,
        "input": {"name": TOKENS_NAME, "layout": "NL", "shape": shape, "dtype": "int64"},
    }


def contract_digest(contract: dict[str, Any]) -> str:
    """Return the SHA-256 of a contract, as 64 hexadecimal digits; the order of keys does not matter."""
    text = json.dumps(contract, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def metadata_of(model: DualEncoder) -> dict[str, str]:
    """Return the texts that go into the metadata of an ONNX file or a Core ML package."""
    contract = contract_of(model.preprocessing)
    return {
        METADATA_CONTRACT: json.dumps(contract, sort_keys=True),
        METADATA_DIGEST: contract_digest(contract),
        f"{METADATA_PREFIX}model_sha256": tensors_digest(model.state_dict(), hashed=hashlib.sha256),
        f"{METADATA_PREFIX}note": "Research software, not a medical device.",
    }


def ties_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of an artifact's metadata that the manifest and the heads repeat."""
    return {key: metadata[METADATA_PREFIX + key] for key in TIES}
