"""Model configurations in open_clip's format: this project's, a JSON file, or open_clip's own."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIP, CustomTextCLIP

CONFIGS = Path(__file__).parent / "configs"
Config = dict[str, Any]


def resolve_config(
    name: str,
    configuration: Config | None = None,
    context_length: int | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
) -> Config:
    """Return a configuration with overrides applied: ``model_cfg`` and ``preprocess_cfg``.

    The arguments are those of `models.OpenCLIPEncoder`; None keeps the configuration's value.
    """
    config = read_config(name) if configuration is None else copy.deepcopy(configuration)
    architecture, contract = config["model_cfg"], config.setdefault("preprocess_cfg", {})
    if "multimodal_cfg" in architecture:
        raise ValueError(f"model {name!r} is a captioning model (CoCa), not a plain dual encoder")
    if {"hf_model_name", "hf_tokenizer_name"} & set(architecture["text_cfg"]):
        raise ValueError(
            f"model {name!r} takes its text side from the Hugging Face hub: "
            "save it to a folder and load that with models.TransformersEncoder"
        )
    for part, overrides in (
        (architecture["text_cfg"], {"context_length": context_length}),
        (architecture["vision_cfg"], {"image_size": image_size}),
        (contract, {"mean": mean and list(mean), "std": std and list(std), "interpolation": interpolation}),
    ):
        part.update({key: value for key, value in overrides.items() if value is not None})
    return config


def read_config(name: str) -> Config:
    """Find a model configuration: this project's first, then a JSON file, then open_clip's own.

    Raises:
        ValueError: No configuration has this name, or the file is not a configuration.
        FileNotFoundError: `name` ends in ``.json`` and the file does not exist.
    """
    ours = CONFIGS / f"{name}.json"
    path = ours if ours.is_file() else Path(name)
    if path.suffix == ".json":
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such model configuration")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not valid JSON ({error})") from error
        content = content if "model_cfg" in content else {"model_cfg": content}
        absent = {"embed_dim", "vision_cfg", "text_cfg"} - set(content["model_cfg"])
        if absent:
            raise ValueError(f"{path}: no open_clip configuration, it lacks {', '.join(sorted(absent))}")
        return {key: content[key] for key in ("model_cfg", "preprocess_cfg") if key in content}
    found = None if ":" in name else open_clip.get_model_config(name)
    if found is None:
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.json")))
        raise ValueError(
            f"model {name!r} is unknown: use {known}, one of open_clip.list_models(), or a .json file"
        )
    return {"model_cfg": found, "preprocess_cfg": _published_contract(name)}


def _published_contract(name: str) -> Config:
    """Return the preprocessing of open_clip's published weights of a model, where all of them have the same."""
    published = [
        open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)
    ]
    contracts = [
        {key: one[key] for key in ("mean", "std", "interpolation") if key in one} for one in published
    ]
    return contracts[0] if contracts and contracts.count(contracts[0]) == len(contracts) else {}


def build_open_clip(architecture: Config) -> CLIP | CustomTextCLIP:
    """Build a model from its ``model_cfg``, with random weights."""
    arguments = copy.deepcopy(architecture)
    arguments["vision_cfg"]["timm_model_pretrained"] = False
    kind = CustomTextCLIP if arguments.pop("custom_text", False) else CLIP
    return kind(**arguments)
