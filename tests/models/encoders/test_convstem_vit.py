"""The trunk of the phantom's teacher, built by timm and in a dual encoder."""

import pytest
import timm
import torch

from models import TimmEncoder


def images(side):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [64, 88])
def test_the_transformer_sees_tokens_of_its_convolutional_stem(side):
    trunk = timm.create_model("vit_convstem_femto", num_classes=0, img_size=side, depth=1).eval()
    tokens = trunk.forward_features(images(side))
    assert tokens.shape == (2, (-(-side // 16)) ** 2, trunk.head_hidden_size)
    assert trunk(images(side)).shape == (2, trunk.head_hidden_size)


def test_it_works_as_trunk_of_a_dual_encoder():
    model = TimmEncoder("vit_convstem_femto", image_size=64, embed_dim=16)
    embedded = model.encode_image(images(64))
    assert embedded.shape == (2, 16)
    embedded[:, 0].sum().backward()
    assert all(p.grad is not None for p in model.trunk.parameters())


def test_pretrained_weights_are_rejected():
    with pytest.raises(ValueError, match="vit_convstem_femto: there are no pretrained weights"):
        timm.create_model("vit_convstem_femto", pretrained=True)
