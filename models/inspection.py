"""Recognise a checkpoint: layout, architecture, and the configuration that loads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import Tensor

from models.layouts import APPLE, RELEASED_STUDENT, SONODISTILL, UNKNOWN, detect_layout, to_open_clip
from models.licences import licence_of
from models.open_clip_config import build_open_clip, settle
from models.weights import flatten

APPLE_CONTRACT = {
    "context_length": 77,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "interpolation": "bilinear",
}
"""Apple's own MobileCLIP2 weights take unnormalised images (open_clip's tag ``dfndr2b``)."""
KNOWN: tuple[dict[str, Any], ...] = (
    {"name": "FetalCLIP"},
    {"name": "MobileCLIP2-S0"},
    {"name": "MobileCLIP2-S0", **APPLE_CONTRACT},
)
"""Arguments of `OpenCLIPEncoder` for the models whose preprocessing is known."""
NEAR = 0.9
"""Likeness from which a file counts as a known model's: one with a missing or unexpected key is still recognised, and
loading it names the key."""
IMAGE_TOWERS = ("visual.", "image_encoder.")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Description:
    """What one checkpoint is.

    Attributes:
        layout: Which naming scheme its tensors follow (`models.layouts`).
        architecture: The model that it fits, or several names, or ``unknown``.
        recipe: ``class_path`` and ``init_args`` of the encoder that it is for, without its weights; None
            where the preprocessing cannot be determined from the file.
        parameters: Number of parameters, statistics of batch norm left out.
        image_parameters: Those of the image tower; None where the layout does not show it.
        dtypes: Number of tensors of each dtype.
        fused: Whether its branches are already reparameterised, so that it can no longer be trained.
        licence: Terms of the published weights, as far as they are known.
    """

    layout: str
    architecture: str
    recipe: dict[str, Any] | None
    parameters: int
    image_parameters: int | None
    dtypes: dict[str, int]
    fused: bool
    licence: str


def describe(content: Mapping[str, Any], source: str) -> Description:
    """Describe a checkpoint.

    Args:
        content: Its top level, as `models.weights.read_checkpoint` returns it.
        source: Its path, for messages.

    Raises:
        ValueError: It holds no tensors.
    """
    state = flatten(content, source)
    layout = detect_layout(state)
    recipe, architecture = None, UNKNOWN
    if layout == SONODISTILL:
        # The module's checkpoint holds the loss beside the student.
        state = {name: value for name, value in state.items() if name.startswith("student.")}
        recipe = content["student"]["recipe"] if "student" in content else None
        architecture = architecture_of(recipe) if recipe else UNKNOWN
    elif layout != UNKNOWN:
        arguments, nearness = _nearest(state)
        if nearness >= NEAR:
            recipe = {"class_path": "models.open_clip_encoder.OpenCLIPEncoder", "init_args": dict(arguments)}
            architecture = arguments["name"]
        else:
            architecture = " or ".join(_open_clip_names(state)) or UNKNOWN
    weights = {name: value.numel() for name, value in state.items() if not name.endswith(STATISTICS)}
    image = sum(size for name, size in weights.items() if name.startswith(IMAGE_TOWERS))
    published = {RELEASED_STUDENT: "MobileFetalCLIP", SONODISTILL: UNKNOWN}.get(layout, architecture)
    return Description(
        layout=layout,
        architecture=architecture,
        recipe=recipe,
        parameters=sum(weights.values()),
        image_parameters=image or None,
        dtypes=dict(Counter(str(value.dtype).removeprefix("torch.") for value in state.values())),
        fused=any("reparam_conv" in name for name in state),
        licence=licence_of(published),
    )


def architecture_of(recipe: Mapping[str, Any]) -> str:
    """Return the name of a recipe's image tower."""
    arguments = recipe["init_args"]
    return str(arguments.get("name", arguments.get("trunk", recipe["class_path"])))


def likeness(state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> float:
    """Return how closely a checkpoint fits an `OpenCLIPEncoder` of these arguments.

    Returns:
        Share of all names that both have with the same shape: 1 for a complete fit, 0 for another context length.
    """
    architecture = settle(**arguments)["model_cfg"]
    if context_length(state) != architecture["text_cfg"].get("context_length", 77):
        return 0.0
    with torch.device("meta"):
        model = build_open_clip(architecture)
    own = {(name, value.shape) for name, value in model.state_dict().items()}
    converted = to_open_clip(state, model)
    theirs = {(name, value.shape) for name, value in converted.items()}
    return len(own & theirs) / len(own | theirs)


def _nearest(state: Mapping[str, Tensor]) -> tuple[Mapping[str, Any], float]:
    """Return the arguments of the known model that a checkpoint fits best, and its likeness."""
    likenesses = [likeness(state, arguments) for arguments in KNOWN]
    best = max(likenesses)
    return KNOWN[likenesses.index(best)], best


def context_length(state: Mapping[str, Tensor]) -> int | None:
    """Return the number of text positions of a checkpoint, or None where it has none."""
    endings = ("positional_embedding", "positional_embedding.pos_embed.pos_embed")
    for name, value in state.items():
        if name.endswith(endings) and not name.startswith(IMAGE_TOWERS):
            return int(value.shape[-2])
    return None


def _open_clip_names(state: Mapping[str, Tensor]) -> list[str]:
    if detect_layout(state) in (APPLE, RELEASED_STUDENT):
        return []
    projection = state.get("text_projection", state.get("text.text_projection"))
    embedding = state.get("token_embedding.weight", state.get("text.token_embedding.weight"))
    if projection is None or embedding is None:
        return []
    names = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        text = config["text_cfg"]
        same = config["embed_dim"] == projection.shape[-1] and text.get("width", 512) == embedding.shape[1]
        if same and not {"hf_model_name", "hf_tokenizer_name"} & set(text) and "multimodal_cfg" not in config:
            names.extend([name] if likeness(state, {"name": name}) == 1 else [])
    return names
