"""The trunks of the embedded corpus, through timm's own factory and through the dual encoder."""

import pytest
import timm
import torch
from timm.utils import reparameterize_model

from models import TimmEncoder


def images(side):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [64, 88])
def test_the_transformer_sees_tokens_of_its_convolutional_stem(side):
    trunk = timm.create_model("vit_convstem_femto", num_classes=0, img_size=side, depth=1).eval()
    tokens = trunk.forward_features(images(side))
    assert tokens.shape == (2, (-(-side // 16)) ** 2, trunk.head_hidden_size)
    assert trunk(images(side)).shape == (2, trunk.head_hidden_size)


def test_a_fused_repvgg_computes_the_same_with_fewer_parameters():
    trunk = timm.create_model("repvgg_femto", num_classes=0, depths=[1, 2, 1, 1])
    with torch.no_grad():
        for _ in range(3):  # statistics that are not the initial ones
            trunk(images(64))
        trunk.eval()
        fused = reparameterize_model(trunk)
        torch.testing.assert_close(fused(images(64)), trunk(images(64)), atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in trunk.parameters())


@pytest.mark.parametrize("name", ["vit_convstem_femto", "repvgg_femto"])
def test_they_serve_as_trunk_of_a_dual_encoder(name):
    model = TimmEncoder(name, image_size=64, embed_dim=16)
    embedded = model.encode_image(images(64))
    assert embedded.shape == (2, 16)
    embedded[:, 0].sum().backward()
    assert all(p.grad is not None for p in model.trunk.parameters())


@pytest.mark.parametrize("name", ["vit_convstem_femto", "repvgg_femto"])
def test_pretrained_weights_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: there are no pretrained weights"):
        timm.create_model(name, pretrained=True)
