"""LightningModules: training step and optimiser."""

from lightning_modules.distillation import DistillationModule, parameter_groups, warmup_cosine
from lightning_modules.sync_batch_norm import TimmSyncBatchNorm

__all__ = ["DistillationModule", "TimmSyncBatchNorm", "parameter_groups", "warmup_cosine"]
