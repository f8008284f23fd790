"""Losses in pure PyTorch; see docs/losses.md for the catalogue."""

from .base import STATISTICS, DistillationLoss, Loss
from .batch import Embeddings, JointBatch
from .combined import CombinedLoss
from .contrastive import CLIPLoss, SigLIPLoss
from .coupled import ConfidencePenaltyKDLoss, ContrastiveRelationalLoss, CoupledKDLoss
from .projected import FeatureKDLoss, InteractiveContrastiveLoss
from .selective import SRKDControlLoss, SRKDLoss

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
