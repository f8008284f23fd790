"""Two image trunks small enough to learn from nothing in minutes on two CPU cores, registered with `timm`.

Both begin with dense 3x3 convolutions: with few images and few steps these learn several times faster than
depthwise ones, and than patches cut straight from the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
from timm.models import ByobNet, VisionTransformer, register_model
from timm.models.byobnet import ByoBlockCfg, ByoModelCfg
from timm.models.vision_transformer_hybrid import HybridEmbed


@register_model
def repvgg_femto(
    pretrained: bool = False,
    widths: Sequence[int] = (16, 32, 64, 128),
    depths: Sequence[int] = (1, 1, 1, 1),
    **kwargs: Any,
) -> ByobNet:
    """Build a RepVGG (Ding et al., CVPR 2021) with four narrow stages behind a stem of stride 2.

    Its branches fuse into plain convolutions (`timm.utils.reparameterize_model`), as those of the paper's
    student do.

    Args:
        pretrained: Not supported: there are no weights.
        widths: Channels of the four stages; the stem has those of the first.
        depths: Blocks of the four stages, each of which halves the resolution.
        **kwargs: For `timm.models.ByobNet`.

    Raises:
        ValueError: Pretrained weights were asked for, or the numbers of stages differ.
    """
    kwargs = _architecture("repvgg_femto", pretrained, kwargs)
    stages = zip(depths, widths, strict=True)
    blocks = tuple(ByoBlockCfg(type="rep", d=depth, c=width, s=2, gs=0) for depth, width in stages)
    return ByobNet(ByoModelCfg(blocks=blocks, stem_type="rep", stem_chs=widths[0]), **kwargs)


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
    """Build a vision transformer whose patches come from a small residual network.

    Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021; the hybrid of Dosovitskiy et
    al. 2021, section 3.1, at a hundredth of its size.

    Args:
        pretrained: Not supported: there are no weights.
        img_size: Side of the square input, pixels.
        stem_channels: Channels of the four stages of a ResNet-10.
        stem_stages: How many of them are used; a token covers 2^(stem_stages + 1) pixels a side.
        embed_dim: Width of the transformer.
        depth: Its number of blocks.
        num_heads: Its number of heads.
        **kwargs: For `timm.models.VisionTransformer`.

    Raises:
        ValueError: Pretrained weights were asked for.
    """
    kwargs = _architecture("vit_convstem_femto", pretrained, kwargs)
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


def _architecture(name: str, pretrained: bool, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without those by which `timm` finds pretrained weights."""
    if pretrained:
        raise ValueError(f"{name}: there are no pretrained weights; leave trunk_weights out")
    about_weights = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return {key: value for key, value in arguments.items() if key not in about_weights}
