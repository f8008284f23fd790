"""Dual encoders, their preprocessing contract, and checkpoint loading.

Names are imported on first use: what reads an export folder needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.checkpoints.weights import load_into, load_weights
    from models.encoders.dual_encoder import DualEncoder
    from models.encoders.open_clip_encoder import OpenCLIPEncoder
    from models.encoders.timm_encoder import TimmEncoder
    from models.encoders.transformers_encoder import TransformersEncoder
    from models.frozen import FrozenTeacher, freeze
    from models.loading import build, from_checkpoint, save_half
    from models.preprocessing import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
    from models.quantised import QuantisedStudent
    from models.reparameterize import fused_copy
    from models.student.load import load_student
    from models.text.tokenizer import build_tokenizer
    from models.zero_shot import age_embeddings, class_embeddings

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "DualEncoder",
    "FrozenTeacher",
    "OpenCLIPEncoder",
    "Preprocessing",
    "QuantisedStudent",
    "TimmEncoder",
    "TransformersEncoder",
    "age_embeddings",
    "build",
    "build_tokenizer",
    "class_embeddings",
    "freeze",
    "from_checkpoint",
    "fused_copy",
    "load_into",
    "load_student",
    "load_weights",
    "save_half",
]

_HOMES = {
    "CLIP_MEAN": "models.preprocessing",
    "CLIP_STD": "models.preprocessing",
    "IMAGENET_MEAN": "models.preprocessing",
    "IMAGENET_STD": "models.preprocessing",
    "DualEncoder": "models.encoders.dual_encoder",
    "FrozenTeacher": "models.frozen",
    "OpenCLIPEncoder": "models.encoders.open_clip_encoder",
    "Preprocessing": "models.preprocessing",
    "QuantisedStudent": "models.quantised",
    "TimmEncoder": "models.encoders.timm_encoder",
    "TransformersEncoder": "models.encoders.transformers_encoder",
    "age_embeddings": "models.zero_shot",
    "build": "models.loading",
    "build_tokenizer": "models.text.tokenizer",
    "class_embeddings": "models.zero_shot",
    "freeze": "models.frozen",
    "from_checkpoint": "models.loading",
    "fused_copy": "models.reparameterize",
    "load_into": "models.checkpoints.weights",
    "load_student": "models.student.load",
    "load_weights": "models.checkpoints.weights",
    "save_half": "models.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
