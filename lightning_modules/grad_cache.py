"""Embed a batch in chunks with the gradients of the whole batch (GradCache, Gao et al. 2021, arXiv 2101.06983).

A contrastive loss depends on all embeddings of a batch, but its gradient in a pair's activations depends on the others
only through the gradient in that pair's embedding. So chunks are embedded without keeping their activations, the loss
is computed on all embeddings, and the backward pass embeds each chunk again, with the same random numbers, and
continues the embeddings' gradients into the towers. Both passes are one backward pass of autograd with a checkpoint
around each chunk (Chen et al. 2016): DistributedDataParallel reduces each gradient once, after the last chunk, and loss
scaling and autocast apply as always.

Batch normalisation in training mode takes its statistics from a chunk, not from the batch: gradients are exactly those
of the batch for towers without it, or with it in evaluation mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from models import DualEncoder


def in_chunks(model: DualEncoder, image: Tensor, tokens: Tensor, size: int | None) -> tuple[Tensor, Tensor]:
    """Embed pairs, at most `size` at a time: ([B, D], [B, D]).

    Args:
        model: The towers.
        image: Images [B, 3, S, S].
        tokens: Token ids [B, L].
        size: Pairs in a chunk; None embeds all at once.
    """
    if size is None or len(image) <= size:
        embedded: tuple[Tensor, Tensor] = model(image, tokens)
        return embedded
    chunks = math.ceil(len(image) / size)  # of equal size: a batch norm would see little of a short last one
    parts = [
        checkpoint(
            model, *part, use_reentrant=False, context_fn=lambda: (nullcontext(), _batch_norm_frozen(model))
        )
        for part in zip(image.tensor_split(chunks), tokens.tensor_split(chunks), strict=True)
    ]
    images, texts = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(texts)


@contextmanager
def _batch_norm_frozen(model: DualEncoder) -> Iterator[None]:
    """Keep the running statistics of batch norms, which have seen the chunk in its first pass."""
    norms: list[Any] = [
        part for part in model.modules() if isinstance(part, _BatchNorm) and part.track_running_stats
    ]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
