"""Grad-CAM: where in an image the similarity with a text comes from (Selvaraju et al., ICCV 2017, arXiv:1610.02391)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from models.encoders.dual_encoder import DualEncoder


def grad_cam(model: DualEncoder, images: Tensor, texts: Tensor) -> Tensor:
    """Return heat maps [B, S, S] of the cosine between images and texts: largest value 1, or all 0.

    The layer is the last one whose activations keep their place in the image and reach the embedding: feature maps
    [B, C, H, W] of a convolutional tower; of a ViT the patch tokens behind its last norm from which a gradient comes
    (with a class token, that before the last attention).

    Args:
        model: A dual encoder in eval mode.
        images: Its normalised input, [B, 3, S, S].
        texts: Unit-length text or class vectors, [B, D].

    Raises:
        ValueError: The image tower has no such layer.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and _is_spatial(module, output):
            output.retain_grad()
            found.append(output)

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        with torch.enable_grad():
            cosines = (model.encode_image(images.detach().requires_grad_()) * texts.detach()).sum()
            cosines.backward()
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)
    for activation in reversed(found):
        gradient = activation.grad
        if gradient is not None and _reaches_everywhere(_maps(gradient)):
            maps, slopes = _maps(activation.detach()), _maps(gradient)
            heat: Tensor = (slopes.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1, keepdim=True).relu()
            heat = interpolate(heat.float(), images.shape[-2:], mode="bilinear")[:, 0]
            largest: Tensor = heat.amax(dim=(1, 2), keepdim=True)
            heat /= largest.clamp(min=torch.finfo(heat.dtype).tiny)
            return heat
    raise ValueError(
        f"{type(model).__name__}: its image tower has no spatial feature maps or patch tokens, so there is no saliency"
    )


def _is_spatial(module: nn.Module, output: Tensor) -> bool:
    if output.ndim == 4:  # but not the heads of an attention, [B, heads, N, N or width]
        heads = isinstance(module, nn.Identity | nn.Dropout | nn.Softmax) or (
            isinstance(module, nn.LayerNorm) and module.normalized_shape[-1] == output.shape[-1]
        )
        return not heads and output.shape[-1] == output.shape[-2] > 1
    return output.ndim == 3 and "norm" in type(module).__name__.lower() and output.shape[1] > 4


def _maps(values: Tensor) -> Tensor:
    """Return feature maps [B, C, H, W]; tokens [B, N, C] lose the class and register tokens before the patches."""
    if values.ndim == 4:
        return values
    side = math.isqrt(values.shape[1])
    patches: Tensor = values[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
    return patches


def _reaches_everywhere(gradient: Tensor) -> bool:
    """Return whether most places have a gradient; behind the last attention only a class token has one."""
    return bool((gradient.abs().sum(dim=1) > 0).float().mean() > 0.5)
