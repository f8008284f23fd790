"""Batch norm over all processes computes what the towers computed before."""

import pytest
import timm
import torch
from torch.nn import SyncBatchNorm

from lightning_modules import TimmSyncBatchNorm


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t"])
def test_activations_inside_batch_norms_are_kept(name):
    tower = timm.create_model(name, num_classes=0).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plugin = TimmSyncBatchNorm()
    with torch.no_grad():
        before = tower(images)
        converted = plugin.apply(tower)
        torch.testing.assert_close(converted(images), before)
        torch.testing.assert_close(plugin.revert(converted)(images), before)
    assert any(isinstance(part, SyncBatchNorm) for part in converted.modules())
