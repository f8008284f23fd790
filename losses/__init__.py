"""Losses in pure PyTorch; see docs/losses.md for the catalogue."""

from losses.base import STATISTICS, DistillationLoss, Loss
from losses.batch import Embeddings, JointBatch
from losses.combined import CombinedLoss
from losses.confidence_penalty import ConfidencePenaltyKDLoss
from losses.contrastive import CLIPLoss
from losses.coupled import CoupledKDLoss
from losses.feature import FeatureKDLoss
from losses.interactive import InteractiveContrastiveLoss
from losses.relational import ContrastiveRelationalLoss
from losses.selective import SRKDControlLoss, SRKDLoss
from losses.sigmoid import SigLIPLoss

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
