from .checkpoints.weights import load_into, load_weights
from .encoders.dual_encoder import DualEncoder, freeze
from .encoders.open_clip_encoder import OpenCLIPEncoder
from .encoders.timm_encoder import TimmEncoder
from .encoders.transformers_encoder import TransformersEncoder
from .loading import build, from_checkpoint, save_half
from .preprocessing import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from .quantised import QuantisedStudent
from .reparameterize import fused_copy
from .student.load import load_student
from .text.tokenizer import build_tokenizer
from .zero_shot import age_embeddings, class_embeddings

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "DualEncoder",
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
