"""Fuse the training branches of a convolutional student into a plain network for inference."""

from __future__ import annotations

import copy

import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.models import reparameterize_model
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.encoders.dual_encoder import DualEncoder

PARITY_IMAGES = 2
TOLERANCE = 1e-4
"""Largest difference in any coordinate of a unit-length embedding; float32 rounding gives about 1e-7."""


def fused_copy(model: DualEncoder) -> DualEncoder:
    """Return a reparameterised copy for inference, in eval mode and marked ``fused``; it refuses to train.

    Towers without branches that `timm` can fuse (FastViT, RepViT, MobileOne, ...) are copied unchanged.

    Raises:
        RuntimeError: The copy's embeddings of noise images differ from the model's by more than 1e-4.
    """
    reference = copy.deepcopy(model).eval()
    fused = copy.deepcopy(reference)
    reparameterize_model(fused, inplace=True)
    fold_batch_norms(fused)
    fused.requires_grad_(False)
    fused.fused = True
    size = model.preprocessing.image_size
    device = next(model.parameters()).device
    image = torch.randn(PARITY_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        difference = (reference.encode_image(image) - fused.encode_image(image)).abs().max().item()
    if not difference <= TOLERANCE:
        raise RuntimeError(f"fusing changed the embeddings by {difference:.1e}, more than {TOLERANCE:.0e}")
    return fused


@torch.no_grad()
def fold_batch_norms(model: DualEncoder) -> None:
    """Fold the batch norms of the image tower that directly follow a convolution into it, in place.

    `timm` leaves those of plain convolutions (a FastViT's MLPs have one each). Which layer feeds which is found by
    running an image through the tower, which must be in eval mode.
    """
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # keeps the tensors alive: ids stay distinct
    pairs: list[tuple[str, nn.Conv2d, nn.BatchNorm2d]] = []
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(
                module.register_forward_hook(lambda own, _, out: outputs.update({id(out): (own, out)}))
            )
        elif isinstance(module, nn.BatchNorm2d):

            def pair(own: nn.BatchNorm2d, inputs: tuple[Tensor, ...], name: str = name) -> None:
                if id(inputs[0]) in outputs:
                    pairs.append((name, outputs[id(inputs[0])][0], own))

            hooks.append(module.register_forward_pre_hook(pair))
    side = model.preprocessing.image_size
    model.image_features(torch.zeros(1, 3, side, side, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    for name, conv, norm in pairs:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        model.set_submodule(name, rest.eval())
