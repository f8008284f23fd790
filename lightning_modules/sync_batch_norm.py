"""Batch norm over all processes for towers of timm, in place of Lightning's conversion."""

from __future__ import annotations

from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers.norm_act import convert_sync_batchnorm
from torch.nn import Module


class TimmSyncBatchNorm(TorchSyncBatchNorm):
    """Synchronise batch norms over all processes by timm's conversion (``--trainer.sync_batchnorm=true``).

    timm puts the activation of a layer into its batch norm (`timm.layers.BatchNormAct2d`). torch's conversion, which
    Lightning uses, drops it and keeps the weights' names, so that the towers compute something else.
    """

    def apply(self, model: Module) -> Module:
        """Replace the batch norms of a model; without several processes they compute the same as before."""
        converted: Module = convert_sync_batchnorm(model)
        return converted

    def revert(self, model: Module) -> Module:
        """Keep them: torch's conversion back drops the activation, too."""
        return model
