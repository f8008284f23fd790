"""Turn a file into a model: our own checkpoints, and those of others that can be told apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.dual_encoder import DualEncoder
from models.inspection import describe
from models.open_clip_encoder import OpenCLIPEncoder
from models.preprocessing import Preprocessing
from models.transformers_encoder import TransformersEncoder
from models.trust import check_classes, resolve
from models.weights import flatten, load_into, read_checkpoint

STUDENT = "student"
"""Top-level key of our checkpoints: recipe and preprocessing of the model of ``student.*`` weights."""


def from_checkpoint(path: str, strict: bool = True) -> DualEncoder:
    """Rebuild a model, its weights and its preprocessing contract from a path.

    In a configuration file: ``class_path: models.from_checkpoint`` with ``init_args: {path: ...}``.

    Args:
        path: One of our own checkpoints; the weights of FetalCLIP, MobileCLIP2-S0 or the released
            MobileFetalCLIP student; or a folder that `transformers` saved.
        strict: Whether the weights must fit in every name and shape.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is refused, names a class that is not trusted (`models.trust`), or does not tell its
            preprocessing (load it with `models.OpenCLIPEncoder` then, and give mean, std and interpolation).
    """
    if Path(path).is_dir():
        return TransformersEncoder(path)
    content = read_checkpoint(path)
    if isinstance(content.get(STUDENT), Mapping):
        return _from_own(content, path, strict)
    description = describe(content, path)
    if description.recipe is None:
        raise ValueError(
            f"{path}: layout {description.layout}, architecture {description.architecture}: which image "
            "statistics it wants cannot be told from the file; load it with models.OpenCLIPEncoder "
            "and its name, weights, mean, std and interpolation"
        )
    model = OpenCLIPEncoder(**description.recipe["init_args"])
    model.load(content, path, strict)
    return model


def build(recipe: Mapping[str, Any], source: str = "checkpoint recipe") -> DualEncoder:
    """Build an architecture, without weights, from what `DualEncoder.recipe` returned.

    Args:
        recipe: ``class_path`` of a subclass of `DualEncoder`, and its ``init_args``.
        source: The file that holds it, for messages.

    Raises:
        ValueError: A class is not trusted (`models.trust`) or cannot be imported, is no dual encoder, or refuses its
            arguments.
    """
    check_classes(recipe, source)
    class_path, arguments = str(recipe.get("class_path")), recipe.get("init_args", {})
    kind = resolve(class_path, source)
    if not (isinstance(kind, type) and issubclass(kind, DualEncoder)):
        raise ValueError(f"{source}: {class_path!r} is no subclass of models.DualEncoder")
    try:
        model: DualEncoder = kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{source}: {class_path} refuses its arguments ({error})") from error
    return model


def _from_own(content: Mapping[str, Any], path: str, strict: bool) -> DualEncoder:
    model = build(content[STUDENT]["recipe"], path)
    model.preprocessing = Preprocessing.from_dict(content[STUDENT]["preprocessing"])
    prefix = f"{STUDENT}."
    state = flatten(content, path)
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    load_into(model, own, path, strict, {name: f"{prefix}{name}" for name in own})
    return model
