"""Parameters and multiply-accumulates of a dual encoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.encoders.dual_encoder import DualEncoder


class Cost(NamedTuple):
    """Cost of an image embedding.

    Attributes:
        image_parameters: Number of parameters that take part in it.
        gmacs: 10^9 multiply-accumulates for one image; the products of activations in attention, which counters of
            weighted layers omit, are included.
    """

    image_parameters: int
    gmacs: float


def image_cost(model: DualEncoder) -> Cost:
    """Count the cost of one image; a multiply-accumulate is two floating-point operations of PyTorch's counter.

    The count runs on the meta device: nothing is computed, and attention is decomposed into its products.

    Args:
        model: In eval mode.
    """
    side = model.preprocessing.image_size
    model = copy.deepcopy(model).to("meta").requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        embedding = model.encode_image(torch.empty(1, 3, side, side, device="meta"))
    used = used_parameters(embedding, list(model.parameters()))
    return Cost(sum(parameter.numel() for parameter in used), counter.get_total_flops() / 2e9)


def used_parameters(output: torch.Tensor, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that a tensor was computed from."""
    if not output.requires_grad:
        return []
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
