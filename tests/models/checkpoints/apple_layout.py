"""Inverse of the converters: from open_clip's names to Apple's MobileCLIP2-S0 layout, by its published description.

An inverse of the converters that shares nothing with them: from an open_clip model's names to Apple's
(`image_encoder.model.*`, `text_encoder.*`) and to those of the released MobileFetalCLIP student.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, interpolate, layer_norm, linear

STAGE_INDEX = {"0": 0, "1": 2, "2": 4, "3": 7}  # positions of the four stages in Apple's flat `network`
DOWNSAMPLE_INDEX = {"1": 1, "2": 3, "3": 5}  # the patch embedding before each later stage
POSITION_INDEX = 6  # the conditional positional encoding before the last stage


def image_name(name: str) -> str:
    """Apple's name of a trunk tensor (without `visual.trunk.`), the head left out."""
    parts = name.split(".")
    if parts[0] == "stem":
        parts[0] = "patch_embed"
    elif parts[0] == "final_conv":
        parts[0] = "conv_exp"
    elif parts[0] == "stages" and parts[2] == "blocks":
        parts[:3] = ["network", str(STAGE_INDEX[parts[1]])]
    elif parts[0] == "stages" and parts[2] == "downsample":
        parts[:3] = ["network", str(DOWNSAMPLE_INDEX[parts[1]])]
    elif parts[0] == "stages" and parts[2:4] == ["pos_emb", "pos_enc"]:
        parts[:4] = ["network", str(POSITION_INDEX), "pe"]
    else:
        raise AssertionError(name)
    renames = {
        "conv_kxk": "rbr_conv",
        "conv_scale": "rbr_scale",
        "identity": "rbr_skip",
        "large_conv": "lkb_origin",
        "mlp": "convffn",
    }
    parts = [renames.get(part, part) for part in parts]
    if "se" in parts:
        parts = [{"fc1": "reduce", "fc2": "expand"}.get(part, part) for part in parts]
    return ".".join(part for part in parts if part != "gamma")


def text_name(name: str) -> str:
    """Apple's name of a text tensor (without `text.`)."""
    parts = name.split(".")
    if parts[0] != "transformer":
        return {
            "token_embedding.weight": "embedding_layer.weight",
            "positional_embedding": "positional_embedding.pos_embed.pos_embed",
            "text_projection": "projection_layer",
            "ln_final.weight": "final_layer_norm.weight",
            "ln_final.bias": "final_layer_norm.bias",
        }[name]
    inside = {
        "ln_1.weight": "pre_norm_mha.0.weight",
        "ln_1.bias": "pre_norm_mha.0.bias",
        "attn.in_proj_weight": "pre_norm_mha.1.qkv_proj.weight",
        "attn.in_proj_bias": "pre_norm_mha.1.qkv_proj.bias",
        "attn.out_proj.weight": "pre_norm_mha.1.out_proj.weight",
        "attn.out_proj.bias": "pre_norm_mha.1.out_proj.bias",
        "ln_2.weight": "pre_norm_ffn.0.weight",
        "ln_2.bias": "pre_norm_ffn.0.bias",
        "mlp.c_fc.weight": "pre_norm_ffn.1.weight",
        "mlp.c_fc.bias": "pre_norm_ffn.1.bias",
        "mlp.c_proj.weight": "pre_norm_ffn.4.weight",
        "mlp.c_proj.bias": "pre_norm_ffn.4.bias",
    }
    return f"transformer.{parts[2]}.{inside['.'.join(parts[3:])]}"


def to_apple(state: dict[str, Tensor], head: str = "head.proj") -> dict[str, Tensor]:
    """An open_clip MobileCLIP2-S0 state in Apple's original layout; the head's bias must be zero."""
    out = {}
    for name, value in state.items():
        if name.startswith("visual.trunk.head."):
            if name.endswith("weight"):
                out[f"image_encoder.model.{head}"] = value.T.clone()
            else:
                assert not value.any()
        elif name.startswith("visual.trunk."):
            out[f"image_encoder.model.{image_name(name.removeprefix('visual.trunk.'))}"] = value
        elif name.startswith("text."):
            value = value[None, None] if name == "text.positional_embedding" else value
            out[f"text_encoder.{text_name(name.removeprefix('text.'))}"] = value
        else:
            out[name] = value
    return out


def to_released_student(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An open_clip MobileCLIP2-S0 state as the MobileFetalCLIP release names it."""
    out = {}
    for name, value in state.items():
        own = name.removeprefix("visual.trunk.")
        if own == name:
            out[name] = value
        elif own.startswith("head.fc."):
            out[f"visual.trunk.head.{own.removeprefix('head.fc.')}"] = value
        else:
            out[f"visual.trunk.{image_name(own)}"] = value
    return out


def apple_text_features(state: dict[str, Tensor], tokens: Tensor, layers: int = 12, heads: int = 8) -> Tensor:
    """Apple's text tower as published, computed from its own names: pre-norm, no mask, end-token pooling.

    A context of another length bends the positional embedding [1, 1, L, W] bilinearly, as Apple's does.
    """

    def get(name: str) -> Tensor:
        return state[f"text_encoder.{name}"]

    batch, length = tokens.shape
    width = get("projection_layer").shape[0]
    positions = get("positional_embedding.pos_embed.pos_embed")
    positions = interpolate(positions, size=(length, width), mode="bilinear").reshape(1, length, width)
    x = get("embedding_layer.weight")[tokens] + positions
    for layer in range(layers):
        mha, ffn = f"transformer.{layer}.pre_norm_mha", f"transformer.{layer}.pre_norm_ffn"
        normed = layer_norm(x, (width,), get(f"{mha}.0.weight"), get(f"{mha}.0.bias"))
        qkv = linear(normed, get(f"{mha}.1.qkv_proj.weight"), get(f"{mha}.1.qkv_proj.bias"))
        query, key, value = qkv.reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        scores = (query @ key.transpose(-1, -2)) / (width // heads) ** 0.5
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, length, width)
        x = x + linear(mixed, get(f"{mha}.1.out_proj.weight"), get(f"{mha}.1.out_proj.bias"))
        normed = layer_norm(x, (width,), get(f"{ffn}.0.weight"), get(f"{ffn}.0.bias"))
        hidden = gelu(linear(normed, get(f"{ffn}.1.weight"), get(f"{ffn}.1.bias")))
        x = x + linear(hidden, get(f"{ffn}.4.weight"), get(f"{ffn}.4.bias"))
    x = layer_norm(x, (width,), get("final_layer_norm.weight"), get("final_layer_norm.bias"))
    return x[torch.arange(batch), tokens.argmax(dim=-1)] @ get("projection_layer")
