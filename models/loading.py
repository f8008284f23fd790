"""Build models from files and recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from models.checkpoints.inspection import STUDENT, describe, student_architecture
from models.checkpoints.integrity import header
from models.checkpoints.trust import check_classes, resolve
from models.checkpoints.weights import flatten, load_into, read_checkpoint
from models.encoders.dual_encoder import DualEncoder
from models.encoders.open_clip_encoder import OpenCLIPEncoder
from models.encoders.transformers_encoder import TransformersEncoder
from models.files import atomic, digest
from models.messages import one_line
from models.preprocessing import Preprocessing
from models.text.tokenizer import FETAL_VOCABULARY, fetal_vocabulary

TEACHER_PREFIX = "teacher."  # of the names of its weights in a training module


def from_checkpoint(path: str, strict: bool = True, untrained: bool = False) -> DualEncoder:
    """Rebuild a model, its weights and its preprocessing contract from a path.

    In a configuration file: ``class_path: models.from_checkpoint`` with ``init_args: {path: ...}``.

    Args:
        path: A checkpoint of this project; the weights of FetalCLIP, MobileCLIP2-S0 or the released
            MobileFetalCLIP student; or a folder that `transformers` saved.
        strict: Whether the weights must fit in every name and shape.
        untrained: Whether to take the architecture without the weights: random ones, for controls.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is refused, names a class that is not trusted (see `--trust`), or does not determine its
            preprocessing (then load it with `models.OpenCLIPEncoder` and give mean, std and interpolation).
    """
    if Path(path).is_dir():
        return TransformersEncoder(path, pretrained=not untrained)
    content = read_checkpoint(path)
    if STUDENT in content:
        return _from_own(content, path, strict, untrained)
    description = describe(content, path)
    if description.arguments is None:
        raise ValueError(
            f"{path}: layout {description.layout}, architecture {description.architecture}: the file does not "
            "determine its image statistics; load it with models.OpenCLIPEncoder "
            "and its name, weights, mean, std and interpolation"
        )
    model = OpenCLIPEncoder(**description.arguments)
    if not untrained:
        model.load(content, path, strict)
    return model


def save_half(model: DualEncoder, path: Path, **extra: Any) -> None:
    """Save a model in half precision as one safetensors file, which `from_checkpoint` loads.

    Args:
        model: The model, on any device; it is not changed.
        path: A ``.safetensors`` file, written atomically.
        **extra: JSON values to keep in the file's header, as a checkpoint keeps them at its top level.
    """
    tensors = {
        f"{STUDENT}.{name}": (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    described = {STUDENT: student_entry(model), **extra}
    with atomic(path) as partial:
        partial.write_bytes(save(tensors, header(tensors, json.dumps(described))))


def student_entry(model: DualEncoder) -> dict[str, Any]:
    """Return what rebuilds a model besides its weights: recipe, preprocessing, digest of the compact vocabulary."""
    entry: dict[str, Any] = {"recipe": model.recipe(), "preprocessing": model.preprocessing.to_dict()}
    if model.preprocessing.tokenizer == "fetal":
        entry["vocabulary"] = digest(fetal_vocabulary())
    return entry


def check_vocabulary(entry: Mapping[str, Any], source: str) -> None:
    """Refuse a `student_entry` whose token ids mean other words here.

    Raises:
        ValueError: The compact vocabulary is another one.
    """
    trained, here = entry.get("vocabulary"), digest(fetal_vocabulary())
    if trained not in (None, here):
        raise ValueError(
            f"{source}: trained with another {FETAL_VOCABULARY.name} (digest {one_line(trained)}, here {here}), so its "
            f"token ids mean other words; restore that version of {FETAL_VOCABULARY}"
        )


def build(recipe: Mapping[str, Any], source: str = "checkpoint recipe") -> DualEncoder:
    """Build an architecture, without weights, from `DualEncoder.recipe`.

    Raises:
        ValueError: The class is not trusted (see `--trust`), cannot be imported, is not a dual encoder, or rejects
            its arguments.
    """
    check_classes(recipe, source)
    class_path, arguments = str(recipe.get("class_path")), recipe.get("init_args", {})
    kind = resolve(class_path, source)
    if not (isinstance(kind, type) and issubclass(kind, DualEncoder)):
        raise ValueError(f"{source}: {class_path!r} is not a subclass of models.DualEncoder")
    try:
        model: DualEncoder = kind(**arguments)
    except OSError:
        raise
    except Exception as error:  # timm's and open_clip's constructors check nothing
        raise ValueError(f"{source}: {class_path} rejects its arguments ({one_line(error, 240)})") from error
    return model


def _from_own(content: Mapping[str, Any], path: str, strict: bool, untrained: bool) -> DualEncoder:
    recipe = student_architecture(content, path) or {}
    check_vocabulary(content[STUDENT], path)
    model = build(recipe, path)
    try:
        model.preprocessing = Preprocessing(**content[STUDENT]["preprocessing"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
    if untrained:
        return model
    prefix = f"{STUDENT}."
    state = flatten(content, path)
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    load_into(model, own, path, strict, {name: f"{prefix}{name}" for name in own})
    return model
