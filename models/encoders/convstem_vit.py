"""Small vision transformer that trains from scratch in minutes on two CPU cores, registered with `timm`.

Its patch embeddings come from dense 3x3 convolutions: with few images and steps these learn several times faster
than depthwise convolutions or linear patch embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
from timm.layers.hybrid_embed import HybridEmbed
from timm.models import VisionTransformer, register_model


@register_model
def vit_convstem_femto(
    pretrained: bool = False,
    img_size: int = 112,
    stem_channels: Sequence[int] = (16, 32, 64, 128),
    stem_stages: int = 3,
    embed_dim: int = 128,
    depth: int = 3,
    num_heads: int = 4,
    **kwargs: Any,
) -> VisionTransformer:
    """Build a vision transformer whose patch embeddings come from a small residual network.

    Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021; the hybrid of Dosovitskiy et
    al. 2021, section 3.1, at a hundredth of its size. A token covers 2^(stem_stages + 1) pixels a side.
    """
    if pretrained:
        raise ValueError("vit_convstem_femto: there are no pretrained weights; leave trunk_weights out")
    for about_weights in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # passed by timm
        kwargs.pop(about_weights, None)
    stem = timm.create_model(
        "resnet10t",
        channels=tuple(stem_channels),
        stem_width=16,
        features_only=True,
        out_indices=[stem_stages],
    )
    return VisionTransformer(
        img_size=img_size,
        patch_size=1,  # of the stem's feature map
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        class_token=False,
        global_pool="avg",
        embed_layer=partial(HybridEmbed, backbone=stem),
        **kwargs,
    )
