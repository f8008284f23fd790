"""Fusing: same embeddings, fewer branches, no training."""

from __future__ import annotations

import pytest
import torch
from torch.nn import BatchNorm2d

from models import fused_copy
from models import reparameterize as module
from tests.models.conftest import FASTVIT, REPVIT, small


def trained(trunk: dict):
    """A model whose batch norm statistics are not the initial ones, which would hide errors."""
    model = small(trunk)
    for _ in range(3):
        model.encode_image(2 * torch.randn(8, 3, 64, 64) + 1)
    return model


@pytest.mark.parametrize("trunk", [FASTVIT, REPVIT], ids=lambda trunk: trunk["trunk"])
def test_fused_embeddings_equal_the_models_in_eval_mode(trunk) -> None:
    model = trained(trunk)
    fused = fused_copy(model)
    image = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(fused.encode_image(image), model.eval().encode_image(image), atol=1e-5)
    norms = [sum(isinstance(part, BatchNorm2d) for part in one.modules()) for one in (model, fused)]
    assert norms[1] < norms[0] / 2
    assert fused.preprocessing == model.preprocessing


def test_the_model_itself_stays_trainable(repvit) -> None:
    names = list(repvit.state_dict())
    fused_copy(repvit)
    assert list(repvit.state_dict()) == names
    assert repvit.training
    assert not repvit.fused


def test_a_fused_model_cannot_be_trained(repvit) -> None:
    fused = fused_copy(repvit)
    assert not fused.training
    fused.eval()
    with pytest.raises(ValueError, match=r"a fused model cannot be trained"):
        fused.train()
    with pytest.raises(ValueError, match=r"a fused model cannot be trained"):
        torch.nn.ModuleList([fused]).train()


def test_a_wrong_fusion_is_detected(repvit, monkeypatch) -> None:
    def broken(model, inplace):
        with torch.no_grad():
            model.image_projection.weight.add_(torch.randn_like(model.image_projection.weight))

    monkeypatch.setattr(module, "reparameterize_model", broken)
    with pytest.raises(RuntimeError, match=r"fusing changed the embeddings by"):
        fused_copy(repvit)
