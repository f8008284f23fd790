"""LightningModules: training step and optimiser."""

from lightning_modules.distillation import DistillationModule, parameter_groups, warmup_cosine

__all__ = ["DistillationModule", "parameter_groups", "warmup_cosine"]
