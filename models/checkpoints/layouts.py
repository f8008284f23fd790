"""Convert the key layouts of CLIP-type checkpoints to open_clip's.

Three layouts occur for the MobileCLIP family:

- open_clip's (``visual.trunk.stem.*``, ``text.*``), which needs no change;
- Apple's original (``image_encoder.model.*``, ``text_encoder.*``);
- the released MobileFetalCLIP student's: open_clip's text names beside an image tower that keeps Apple's
  names (``visual.trunk.patch_embed.*``).

Checkpoints of this project have open_clip's names behind ``student.model.``.

`timm` converts Apple's image tower (`timm.models.fastvit.checkpoint_filter_fn`); the text tower is converted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict, resize_text_pos_embed
from timm.models.fastvit import checkpoint_filter_fn
from torch import Tensor

from models.checkpoints.weights import bare_name

OPEN_CLIP = "open_clip"
APPLE = "Apple MobileCLIP"
RELEASED_STUDENT = "MobileFetalCLIP release"
SONODISTILL = "SonoDistill"
UNKNOWN = "unknown"

APPLE_IMAGE = "image_encoder.model."
TRUNK = "visual.trunk."
APPLE_BLOCK = {
    "pre_norm_mha.0.": "ln_1.",
    "pre_norm_mha.1.qkv_proj.": "attn.in_proj_",
    "pre_norm_mha.1.out_proj.": "attn.out_proj.",
    "pre_norm_ffn.0.": "ln_2.",
    "pre_norm_ffn.1.": "mlp.c_fc.",
    "pre_norm_ffn.4.": "mlp.c_proj.",
}
"""Parts of a text block: Apple's name (github.com/apple/ml-mobileclip) -> open_clip's."""
APPLE_TEXT = {
    "text_encoder.embedding_layer.": "text.token_embedding.",
    "text_encoder.positional_embedding.pos_embed.pos_embed": "text.positional_embedding",
    "text_encoder.final_layer_norm.": "text.ln_final.",
    "text_encoder.projection_layer": "text.text_projection",
    "logit_scale": "logit_scale",
}
"""Rest of the text tower. Names ending in a dot are prefixes of ``weight`` and ``bias``."""
OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")
"""Numbers besides the weights in OpenAI's CLIP files, otherwise of open_clip's layout."""


def detect_layout(names: Iterable[str]) -> str:
    """Return the layout that a checkpoint's names belong to."""
    names = list(names)
    prefixes = {
        "student.": SONODISTILL,
        "image_encoder.": APPLE,
        "text_encoder.": APPLE,
        f"{TRUNK}patch_embed.0.rbr_": RELEASED_STUDENT,
        "visual.": OPEN_CLIP,
    }
    found = (layout for prefix, layout in prefixes.items() if any(name.startswith(prefix) for name in names))
    return next(found, UNKNOWN)


def to_open_clip(state: Mapping[str, Tensor], model: CLIP | CustomTextCLIP) -> dict[str, Tensor]:
    """Convert tensors of any known layout to the names and shapes of the open_clip model that receives them.

    A text positional embedding of another length is resized linearly, as open_clip does. Names that no rule maps are
    kept; `load_into` reports them.
    """
    layout = detect_layout(state)
    converted = {name: value for name, value in state.items() if name not in OPENAI_SIZES}
    if layout == SONODISTILL:
        # The file also contains the loss's weights.
        own = [name for name in state if name.startswith("student.")]
        converted = {bare_name(name.removeprefix("student.")): state[name] for name in own}
    elif layout == APPLE:
        converted = _from_apple(state, model)
    elif layout == RELEASED_STUDENT:
        trunk = {name.removeprefix(TRUNK): value for name, value in state.items() if name.startswith(TRUNK)}
        rest = {name: value for name, value in state.items() if not name.startswith(TRUNK)}
        converted = {**_timm_names(trunk, model), **rest}
    if isinstance(model, CustomTextCLIP):
        converted = convert_to_custom_text_state_dict(converted)
    name = "text.positional_embedding" if isinstance(model, CustomTextCLIP) else "positional_embedding"
    own = model.state_dict().get(name)
    # Another width means another model, which load_into reports.
    if name in converted and own is not None and converted[name].shape[1:] == own.shape[1:]:
        resize_text_pos_embed(converted, model)
    return converted


def names_in(state: Mapping[str, Tensor], converted: Mapping[str, Tensor]) -> dict[str, str]:
    """Map converted names to names in the file.

    Tensors are matched by identity, so reshaped ones (projection and positions) are missing.
    """
    before = {id(value): name for name, value in state.items()}
    return {name: before[id(value)] for name, value in converted.items() if id(value) in before}


def _from_apple(state: Mapping[str, Tensor], model: CLIP | CustomTextCLIP) -> dict[str, Tensor]:
    trunk: dict[str, Tensor] = {}
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(APPLE_IMAGE):
            # The projection [features, D] has two names; timm transposes the first.
            own = name.removeprefix(APPLE_IMAGE).replace("classifier.proj", "head.proj")
            trunk[own] = value
            continue
        mapped = _apple_text_name(name)
        # The positional embedding is stored as [1, 1, L, W].
        converted[mapped or name] = value[0, 0] if mapped == "text.positional_embedding" else value
    return {**_timm_names(trunk, model), **converted}


def _apple_text_name(name: str) -> str | None:
    block = re.fullmatch(r"text_encoder\.transformer\.(\d+)\.(.+?)(weight|bias)", name)
    if block and block[2] in APPLE_BLOCK:
        return f"text.transformer.resblocks.{block[1]}.{APPLE_BLOCK[block[2]]}{block[3]}"
    for theirs, ours in APPLE_TEXT.items():
        if name == theirs or (theirs.endswith(".") and name in (f"{theirs}weight", f"{theirs}bias")):
            return name.replace(theirs, ours)
    return None


def _timm_names(trunk: Mapping[str, Tensor], model: CLIP | CustomTextCLIP) -> dict[str, Tensor]:
    renamed = dict(trunk)
    if hasattr(model.visual, "trunk"):  # otherwise it is another architecture, which load_into reports
        renamed = checkpoint_filter_fn(renamed, model.visual.trunk)
    return {f"{TRUNK}{name}": value for name, value in renamed.items()}
