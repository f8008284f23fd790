"""Losses: pure torch, importing nothing else of this project. See docs/losses.md for the catalogue."""

from losses.base import STATISTICS, Loss
from losses.combined import CombinedLoss
from losses.confidence_penalty import ConfidencePenaltyKDLoss
from losses.contrastive import CLIPLoss
from losses.coupled import CoupledKDLoss
from losses.distillation import DistillationLoss
from losses.embeddings import Embeddings
from losses.feature import FeatureKDLoss
from losses.interactive import InteractiveContrastiveLoss
from losses.joint_batch import JointBatch
from losses.relational import ContrastiveRelationalLoss
from losses.selective import SRKDLoss
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
    "SRKDLoss",
    "SigLIPLoss",
]
