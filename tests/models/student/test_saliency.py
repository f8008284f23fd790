"""Grad-CAM beside independent computations of it, for convolutional and ViT towers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, normalize

from models import TimmEncoder
from models.student.saliency import grad_cam

SMALL = {
    "text_width": 32,
    "text_layers": 1,
    "text_heads": 2,
    "context_length": 16,
    "embed_dim": 24,
    "image_size": 64,
}


class Pooled(nn.Module):
    """A convolution, its mean over places, a linear layer: Grad-CAM is then the class activation map."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 4, stride=4)
        self.linear = nn.Linear(5, 6, bias=False)

    def encode_image(self, image):
        return self.linear(self.convolution(image).mean(dim=(2, 3)))


def test_of_a_pooled_convolution_it_is_the_class_activation_map():
    torch.manual_seed(0)
    model, images, texts = Pooled(), torch.randn(3, 3, 16, 16), normalize(torch.randn(3, 6), dim=-1)
    with torch.no_grad():
        weights = texts @ model.linear.weight  # of each feature map in the cosine
        maps = torch.einsum("bc,bchw->bhw", weights, model.convolution(images)).relu()
        maps = interpolate(maps[:, None], (16, 16), mode="bilinear")[:, 0]
        expected = maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(grad_cam(model, images, texts), expected)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_of_a_vit_it_is_that_of_the_last_norm_with_gradients(pool):
    torch.manual_seed(0)
    arguments = {"depth": 2, "embed_dim": 32, "num_heads": 2, "global_pool": pool}
    model = TimmEncoder("vit_tiny_patch16_224", arguments, **SMALL).eval()
    images, texts = torch.randn(2, 3, 64, 64), normalize(torch.randn(2, 24), dim=-1)
    kept = {}
    block = model.trunk.blocks[-1]  # behind the last attention only a class token has a gradient
    norm = block.norm1 if pool == "token" else block.norm2
    hook = norm.register_forward_hook(lambda _, __, output: kept.update(out=output))
    cosine = (model.encode_image(images) * texts).sum()
    (slope,) = torch.autograd.grad(cosine, kept["out"])
    hook.remove()
    patches, slopes = kept["out"].detach()[:, -16:], slope[:, -16:]
    heat = torch.einsum("bc,bnc->bn", slopes.mean(dim=1), patches).relu().reshape(2, 1, 4, 4)
    heat = interpolate(heat, (64, 64), mode="bilinear")[:, 0]
    expected = heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(grad_cam(model, images, texts), expected)


@pytest.mark.parametrize(
    "trunk",
    [
        ("resnet10t", {"channels": [8, 16, 32, 64], "stem_width": 8}),
        ("fastvit_t8", {"embed_dims": [8, 16, 32, 64], "layers": [1, 1, 1, 1]}),
        ("vit_convstem_femto", {}),
    ],
    ids=lambda trunk: trunk[0],
)
def test_every_tower_of_ours_has_a_map_and_keeps_no_gradients(trunk):
    torch.manual_seed(0)
    model = TimmEncoder(*trunk, **SMALL).eval()
    heat = grad_cam(model, torch.randn(2, 3, 64, 64), normalize(torch.randn(2, 24), dim=-1))
    assert heat.shape == (2, 64, 64)
    assert 0 <= float(heat.min()) <= float(heat.max()) <= 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_tower_without_places_is_refused():
    class Flat(nn.Module):
        def encode_image(self, image):
            return image.flatten(1)[:, :6] * 1.0

    with pytest.raises(ValueError, match="no saliency"):
        grad_cam(Flat(), torch.randn(1, 3, 8, 8), torch.randn(1, 6))
