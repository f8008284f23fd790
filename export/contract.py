"""What an app must do to a frame before it reaches an exported model, as data that travels with the files."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from models import Preprocessing

INPUT_NAME = "image"
EMBEDDING_NAME = "embedding"
PROBABILITIES_NAME = "probabilities"
TEXT_EMBEDDING_NAME = "text_embedding"
TOKENS_NAME = "tokens"

METADATA_CONTRACT = "sonodistill.contract"
METADATA_LICENCE = "sonodistill.weights_licence"
METADATA_DIGEST = "sonodistill.contract_sha256"


def contract_of(preprocessing: Preprocessing) -> dict[str, Any]:
    """Spell a model's preprocessing out for an app.

    The normalisation is inside every exported graph, so an app passes plain pixel values. Mean and standard
    deviation are listed for information.

    Args:
        preprocessing: The model's contract, as its checkpoint carries it.

    Returns:
        Primitives only; `contract_digest` of them identifies the contract.
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
        "preprocessing": preprocessing.to_dict(),
    }


def contract_digest(contract: dict[str, Any]) -> str:
    """Return the SHA-256 of a contract, as 64 hexadecimal digits; the order of keys does not matter."""
    text = json.dumps(contract, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def metadata_of(preprocessing: Preprocessing) -> dict[str, str]:
    """Return the texts that go into the metadata of an ONNX file or a Core ML package."""
    contract = contract_of(preprocessing)
    return {
        METADATA_CONTRACT: json.dumps(contract, sort_keys=True),
        METADATA_DIGEST: contract_digest(contract),
        "sonodistill.note": "Research software, not a medical device.",
    }
