"""Dual encoders, their preprocessing contract, and the checkpoints they come from."""

from models.dual_encoder import DualEncoder
from models.frozen import FrozenTeacher, freeze
from models.preprocessing import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from models.timm_encoder import TimmEncoder
from models.tokenizer import build_tokenizer

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "DualEncoder",
    "FrozenTeacher",
    "Preprocessing",
    "TimmEncoder",
    "build_tokenizer",
    "freeze",
]
