"""LightningModules: how towers, loss and optimiser meet in a training step."""

from lightning_modules.distillation import DistillationModule
from lightning_modules.optimisation import parameter_groups, warmup_cosine

__all__ = ["DistillationModule", "parameter_groups", "warmup_cosine"]
