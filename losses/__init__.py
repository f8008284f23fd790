"""Losses: pure torch, importing nothing else of this project. See docs/losses.md for the catalogue."""

from losses.base import STATISTICS, Loss
from losses.contrastive import CLIPLoss
from losses.embeddings import Embeddings
from losses.joint_batch import JointBatch
from losses.selective import SRKDLoss

__all__ = ["STATISTICS", "CLIPLoss", "Embeddings", "JointBatch", "Loss", "SRKDLoss"]
