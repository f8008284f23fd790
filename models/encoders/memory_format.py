"""Channels-last memory layout, except for convolutions whose gradient oneDNN computes wrongly in it."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
NARROW = 16  # channels of oneDNN's blocks with AVX-512, the widest affected


def to_channels_last(model: Module) -> Module:
    """Convert a model's convolutions to channels-last, in place, and return it.

    Not converted: strided 1 x 1 convolutions of fewer than 16 channels, such as the stem of MobileCLIP2-S0. On a
    CPU the gradient of their weights is written out of bounds when the feature map is channels-last (oneDNN issue
    6035; in torch 2.13 and 2.14): training crashes, hangs, or continues with wrong weights. On a GPU their feature maps
    are channels-last like all others.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if _miscomputed(module):
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            module.register_forward_pre_hook(_safe_input)
    return model


def compile_model(model: nn.Module, backend: str = "inductor") -> None:
    """Compile a model in place with a backend of ``torch.compile``; it keeps the memory layout of `to_channels_last`.

    Otherwise inductor would choose a layout for all convolutions, also for those that stay contiguous. Shapes are
    static: student and teacher share their forward method, so torch would take their two image sizes for one that
    changes, and compile the second model for any size, which takes minutes.
    """
    options = {"layout_optimization": False} if backend == "inductor" else None
    model.compile(backend=backend, dynamic=False, options=options)


def _miscomputed(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.in_channels < NARROW
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
    )


def _safe_input(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # torch uses channels-last if either the weight or the feature map has that layout.
    return tuple(
        value.contiguous(memory_format=_layout_on(value.device)) if isinstance(value, Tensor) else value
        for value in inputs
    )


def _layout_on(device: torch.device) -> torch.memory_format:
    """Return the layout of narrow strided convolutions; a GPU computes them right, and conversions cost it time."""
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last
