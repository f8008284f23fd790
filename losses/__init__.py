"""Losses in pure PyTorch; see docs/losses.md for the catalogue."""

from .base import STATISTICS, DistillationLoss, Loss
from .batch import Embeddings, JointBatch
from .combined import CombinedLoss
from .contrastive import CLIPLoss
from .coupled import ConfidencePenaltyKDLoss, ContrastiveRelationalLoss, CoupledKDLoss
from .feature import FeatureKDLoss
from .interactive import InteractiveContrastiveLoss
from .selective import SRKDControlLoss, SRKDLoss
from .sigmoid import SigLIPLoss

__all__ = [
    "STATISTICS",
    "CLIPLoss",
    "CombinedLoss",
    "ConfidencePenaltyKDLoss",
    "ContrastiveRelationalLoss",
    "CoupledKDLoss",
    "DistillationLoss",
    "Embeddings",
    "FeatureKDLoss",
    "InteractiveContrastiveLoss",
    "JointBatch",
    "Loss",
    "SRKDControlLoss",
    "SRKDLoss",
    "SigLIPLoss",
]
