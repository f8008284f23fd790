"""Parameter groups and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into decayed matrices and undecayed vectors and scalars: AdamW's groups, none empty.

    Norm gains, biases and logit scales have at most one axis and are not decayed (paper, training details; the
    convention of CLIP). Convolution kernels and embeddings have two or more. Shared parameters count once.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in modules:
        for parameter in module.parameters():
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            (decayed if parameter.ndim > 1 else undecayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Return the learning-rate factor in [0, 1] at optimiser step `step`.

    Rises linearly to 1 over `warmup_steps`, then falls along a half cosine to 0 at `total_steps`. In a run of fewer
    than twice as many steps the rise takes at most a tenth, so that a smoke run still trains.
    """
    warmup = min(warmup_steps, total_steps // 10) if total_steps < 2 * warmup_steps else warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return 0.5 * (1.0 + math.cos(math.pi * progress))
