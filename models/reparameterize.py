"""Fuse the training branches of a convolutional student into the plain network that a phone runs."""

from __future__ import annotations

import copy

import torch
from timm.models import reparameterize_model

from models.dual_encoder import DualEncoder

PARITY_IMAGES = 2
TOLERANCE = 1e-4
"""Largest difference in any coordinate of a unit-length embedding; fusing costs about 1e-7 in float32."""


def fused_copy(model: DualEncoder) -> DualEncoder:
    """Return a reparameterised copy for inference; `model` itself stays as it is.

    Batch norm must use its running statistics while it is folded away, so the copy is put into eval mode
    first, and it refuses to train afterwards: a fused network has lost its branches and its batch norm.

    Args:
        model: A model whose image tower `timm` can reparameterise (FastViT, RepViT, MobileOne, ...). Towers
            without such branches are copied unchanged.

    Returns:
        The copy, in eval mode, marked ``fused``.

    Raises:
        RuntimeError: The copy's embeddings of noise images differ from the model's by more than 1e-4.
    """
    reference = copy.deepcopy(model).eval()
    fused = copy.deepcopy(reference)
    reparameterize_model(fused, inplace=True)
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
