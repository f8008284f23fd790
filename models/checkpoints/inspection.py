"""Recognise a checkpoint: layout, architecture, and the configuration that loads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import open_clip
import torch
from torch import Tensor

from models.checkpoints.layouts import (
    APPLE,
    RELEASED_STUDENT,
    SONODISTILL,
    UNKNOWN,
    detect_layout,
    to_open_clip,
)
from models.checkpoints.licences import licence_of
from models.checkpoints.weights import flatten
from models.messages import one_line
from models.open_clip_config import build_open_clip, resolve_config

STUDENT = "student"
"""Key of this project's checkpoints: recipe and preprocessing of the model of the ``student.*`` weights."""
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
REMEDY = "give a checkpoint that SonoDistill wrote"
NEAR = 0.9
"""Likeness above which a file counts as a known model: with a missing or unexpected key it is still recognised, and
loading it names the key."""
IMAGE_TOWERS = ("visual.", "image_encoder.")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Description:
    """Description of a checkpoint.

    Attributes:
        layout: Naming scheme of its tensors (`models.checkpoints.layouts`).
        candidates: Names of the models that it fits; empty if unknown.
        arguments: Arguments of `OpenCLIPEncoder` without its weights; None where the file does not determine them.
        parameters, image_parameters: Number of parameters without batch norm statistics; image: None if unknown.
        dtypes: Number of tensors of each dtype.
        fused: Whether its branches are already reparameterised, so that it can no longer be trained.
        licence: Terms of the published weights, as far as they are known.
    """

    layout: str
    candidates: tuple[str, ...]
    arguments: dict[str, Any] | None
    parameters: int
    image_parameters: int | None
    dtypes: dict[str, int]
    fused: bool
    licence: str

    @property
    def architecture(self) -> str:
        """The candidates as text, or ``unknown``."""
        return " or ".join(self.candidates) or UNKNOWN


def describe(content: Mapping[str, Any], source: str) -> Description:
    """Describe a checkpoint by its top level (from `read_checkpoint`)."""
    state = flatten(content, source)
    layout = detect_layout(state)
    arguments: dict[str, Any] | None = None
    candidates: tuple[str, ...] = ()
    if layout == SONODISTILL:
        # The file also contains the loss's weights.
        state = {name: value for name, value in state.items() if name.startswith("student.")}
        recipe = student_architecture(content, source)
        candidates = () if recipe is None else (tower_name(recipe),)
    elif layout != UNKNOWN:
        nearness, nearest = max(
            ((likeness(state, known), known) for known in KNOWN), key=lambda pair: pair[0]
        )
        if nearness >= NEAR:
            arguments, candidates = dict(nearest), (nearest["name"],)
        else:
            candidates = _open_clip_names(state, layout)
    weights = {name: value.numel() for name, value in state.items() if not name.endswith(STATISTICS)}
    image = sum(size for name, size in weights.items() if name.startswith(IMAGE_TOWERS))
    known = candidates[0] if len(candidates) == 1 else UNKNOWN
    published = {RELEASED_STUDENT: "MobileFetalCLIP", SONODISTILL: UNKNOWN}.get(layout, known)
    return Description(
        layout=layout,
        candidates=candidates,
        arguments=arguments,
        parameters=sum(weights.values()),
        image_parameters=image or None,
        dtypes=dict(Counter(str(value.dtype).removeprefix("torch.") for value in state.values())),
        fused=any("reparam_conv" in name for name in state),
        licence=licence_of(published),
    )


def student_architecture(content: Mapping[str, Any], source: str) -> Mapping[str, Any] | None:
    """Return class path and arguments of the student in a checkpoint of ours; None for any other checkpoint."""
    if STUDENT not in content:
        return None
    entry = content[STUDENT]
    recipe = entry.get("recipe") if isinstance(entry, Mapping) else None
    kinds = {"class_path": str, "init_args": Mapping}
    if not isinstance(recipe, Mapping) or not all(
        isinstance(recipe.get(k), kind) for k, kind in kinds.items()
    ):
        raise ValueError(
            f"{source}: its entry {STUDENT!r} has no recipe of class_path and init_args; {REMEDY}"
        )
    if not isinstance(entry.get("preprocessing"), Mapping):
        raise ValueError(f"{source}: its entry {STUDENT!r} has no preprocessing contract; {REMEDY}")
    return recipe


def tower_name(architecture: Mapping[str, Any]) -> str:
    """Return the name of an architecture's image tower."""
    arguments = architecture["init_args"]
    return one_line(arguments.get("name", arguments.get("trunk", architecture["class_path"])))


def likeness(state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> float:
    """Return the share of tensors that a checkpoint and an `OpenCLIPEncoder` have in common by name and shape.

    1 is a complete fit; another context length is 0.
    """
    architecture = resolve_config(**arguments)["model_cfg"]
    if _context_length(state) != architecture["text_cfg"].get("context_length", 77):
        return 0.0
    model = _on_meta(json.dumps(architecture))
    own = {(name, value.shape) for name, value in model.state_dict().items()}
    try:
        converted = to_open_clip(state, model)
    except Exception:  # a tensor of a shape that no model of its layout has
        return 0.0
    theirs = {(name, value.shape) for name, value in converted.items()}
    return len(own & theirs) / len(own | theirs)


@cache
def _on_meta(architecture: str) -> torch.nn.Module:
    with torch.device("meta"):
        model: torch.nn.Module = build_open_clip(json.loads(architecture))
    return model


def _context_length(state: Mapping[str, Tensor]) -> int | None:
    endings = ("positional_embedding", "positional_embedding.pos_embed.pos_embed")
    for name, value in state.items():
        if value.ndim >= 2 and name.endswith(endings) and not name.startswith(IMAGE_TOWERS):
            return int(value.shape[-2])
    return None


def _open_clip_names(state: Mapping[str, Tensor], layout: str) -> tuple[str, ...]:
    """Return the names of open_clip's own models that a checkpoint fits completely."""
    projection = state.get("text_projection", state.get("text.text_projection"))
    embedding = state.get("token_embedding.weight", state.get("text.token_embedding.weight"))
    if layout in (APPLE, RELEASED_STUDENT) or projection is None or embedding is None:
        return ()
    if projection.ndim != 2 or embedding.ndim != 2:
        return ()
    names = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        text = config["text_cfg"]
        same = config["embed_dim"] == projection.shape[-1] and text.get("width", 512) == embedding.shape[1]
        downloads = {"hf_model_name", "hf_tokenizer_name"} & set(text) or "multimodal_cfg" in config
        if same and not downloads and likeness(state, {"name": name}) == 1:
            names.append(name)
    return tuple(names)
