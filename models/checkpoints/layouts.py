"""Convert the key layouts of CLIP-type checkpoints to open_clip's.

Three layouts occur for the MobileCLIP family:

- open_clip's (``visual.trunk.stem.*``, ``text.*``), which needs no change;
- Apple's original (``image_encoder.model.*``, ``text_encoder.*``);
- the released MobileFetalCLIP student's: open_clip's text names beside an image tower that keeps Apple's
  names (``visual.trunk.patch_embed.*``).

Checkpoints of this project have open_clip's names behind ``student.model.``.

open_clip and `timm` convert Apple's names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from open_clip.convert import convert_mobile_clip_state_dict
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict, resize_text_pos_embed
from timm.models.fastvit import checkpoint_filter_fn
from torch import Tensor

from models.checkpoints.weights import bare_name

OPEN_CLIP = "open_clip"
APPLE = "Apple MobileCLIP"
RELEASED_STUDENT = "MobileFetalCLIP release"
SONODISTILL = "SonoDistill"
UNKNOWN = "unknown"

APPLE_TOWERS = ("image_encoder.model.", "text_encoder.")
TRUNK = "visual.trunk."
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
    elif layout == APPLE and hasattr(model.visual, "trunk"):  # else it is another architecture
        # The projection [features, D] has two names; timm transposes the first.
        spelt = {name.replace("classifier.proj", "head.proj"): value for name, value in state.items()}
        rest = {name: value for name, value in spelt.items() if not name.startswith(APPLE_TOWERS)}
        converted = rest | convert_mobile_clip_state_dict(model, spelt)
    elif layout == RELEASED_STUDENT and hasattr(model.visual, "trunk"):
        trunk = {name.removeprefix(TRUNK): value for name, value in state.items() if name.startswith(TRUNK)}
        rest = {name: value for name, value in state.items() if not name.startswith(TRUNK)}
        trunk = checkpoint_filter_fn(trunk, model.visual.trunk)
        converted = {f"{TRUNK}{name}": value for name, value in trunk.items()} | rest
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
