"""Dual encoders, their preprocessing contract, and checkpoint loading."""

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
    "load_weights",
    "save_half",
]
