"""Dual encoders from open_clip configurations: FetalCLIP, MobileCLIP2-S0, or a JSON file of yours."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import open_clip
from lightning.fabric.utilities import rank_zero_info
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn

from models.causal_text import end_token_features, end_token_tower, is_tracing, up_to_longest_end
from models.dual_encoder import DualEncoder
from models.layouts import RELEASED_STUDENT, detect_layout, names_in, to_open_clip
from models.licences import licence_of
from models.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from models.weights import load_into, load_weights

CONFIGS = Path(__file__).parent / "configs"
Config = dict[str, Any]


class OpenCLIPEncoder(DualEncoder):
    """A CLIP model that open_clip can build, with weights of a local file. Nothing is ever downloaded.

    Args:
        name: ``MobileCLIP2-S0`` (the published student: context 117, ImageNet statistics), ``FetalCLIP``
            (the published teacher, ViT-L/14), another of open_clip's models, or the path of a JSON
            configuration in open_clip's format (bare, or under ``model_cfg`` beside ``preprocess_cfg``).
        weights: A local checkpoint in any layout of `models.layouts`; None starts from random weights.
        strict: Whether the weights must fit in every name and shape.
        context_length: Number of tokens of a text; None takes the configuration's. Weights of another
            length are resized linearly.
        image_size: Side of the square input, in pixels; None takes the configuration's.
        mean: Mean of each RGB channel, on the 0-1 scale; None takes the configuration's, or CLIP's.
        std: Standard deviation of each RGB channel, on the 0-1 scale; None as for `mean`.
        interpolation: Kernel of the antialiased resize; None takes the configuration's, or ``bicubic``.
        configuration: The configuration itself, in place of the one that `name` finds (checkpoints carry it).

    Raises:
        ValueError: The configuration is unknown or needs a download, or the weights do not fit.
        FileNotFoundError: The configuration or the weights do not exist.
    """

    def __init__(
        self,
        name: str = "MobileCLIP2-S0",
        weights: str | None = None,
        strict: bool = True,
        context_length: int | None = None,
        image_size: int | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        interpolation: Literal["bilinear", "bicubic"] | None = None,
        configuration: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        settled = read_config(name) if configuration is None else copy.deepcopy(configuration)
        architecture, contract = settled["model_cfg"], settled.setdefault("preprocess_cfg", {})
        _check(architecture, name)
        _override(architecture["text_cfg"], context_length=context_length)
        _override(architecture["vision_cfg"], image_size=image_size)
        _override(contract, mean=mean and list(mean), std=std and list(std), interpolation=interpolation)
        self.name = Path(name).name.removesuffix(".json")
        self.configuration = settled
        self.embed_dim = int(architecture["embed_dim"])
        self.preprocessing = Preprocessing(
            image_size=architecture["vision_cfg"].get("image_size", 224),
            mean=tuple(contract.get("mean", CLIP_MEAN)),
            std=tuple(contract.get("std", CLIP_STD)),
            interpolation=contract.get("interpolation", "bicubic"),
            tokenizer="clip",
            context_length=architecture["text_cfg"].get("context_length", 77),
        )
        self.model = _build(architecture)
        if weights is not None:
            self.load(load_weights(weights), weights, strict)

    def load(self, state: Mapping[str, Tensor], source: str, strict: bool = True) -> None:
        """Load weights of any known layout and tell the terms of the published ones.

        Args:
            state: Tensors by name, as `models.load_weights` returns them.
            source: Where they come from, for messages.
            strict: Whether they must fit in every name and shape.

        Raises:
            ValueError: They do not fit.
        """
        converted = to_open_clip(state, self.model)
        load_into(self.model, converted, source, strict, names_in(state, converted))
        published = "MobileFetalCLIP" if detect_layout(state) == RELEASED_STUDENT else self.name
        rank_zero_info(f"{source}: licence of the published {published} weights: {licence_of(published)}")

    def image_features(self, image: Tensor) -> Tensor:
        """Map images [B, 3, S, S] to unnormalised features [B, D]."""
        features: Tensor = self.model.encode_image(image)
        return features

    def text_features(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] (int64) to unnormalised features [B, D].

        A causal tower (FetalCLIP's) runs over the used columns alone, and any tower that is read at the end token
        computes its last block there alone, which changes nothing but the time.
        """
        tower = None if is_tracing() else end_token_tower(self.model)
        if tower is not None:
            return end_token_features(tower, tokens)
        features: Tensor = self.model.encode_text(tokens)
        return features

    def columns_of(self, tokens: Tensor) -> int:
        """Return how many columns pass the text tower: of a causal one, those up to the longest text's end."""
        tower = end_token_tower(self.model)
        cut = tower is not None and tower.attn_mask is not None
        return (up_to_longest_end(tokens) if cut else tokens).shape[1]

    @property
    def log_logit_scale(self) -> nn.Parameter:
        """The learned scalar whose exponential multiplies cosines."""
        scale: nn.Parameter = self.model.logit_scale
        return scale

    @property
    def logit_bias(self) -> Tensor | None:
        """The learned scalar added to the logits (SigLIP configurations), or None."""
        bias: Tensor | None = self.model.logit_bias
        return bias

    def init_args(self) -> dict[str, Any]:
        """Return the constructor arguments, as primitives, that rebuild the architecture without weights."""
        return {"name": self.name, "configuration": copy.deepcopy(self.configuration)}


def read_config(name: str) -> Config:
    """Find a model configuration: ours first, then a JSON file, then open_clip's own.

    Returns:
        ``model_cfg`` and, where the file has it, ``preprocess_cfg``.

    Raises:
        ValueError: No configuration has this name, or the file is not one.
        FileNotFoundError: `name` ends in ``.json`` and is no file.
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
    return {"model_cfg": found}


def _override(values: Config, **overrides: Any) -> None:
    values.update({key: value for key, value in overrides.items() if value is not None})


def _check(architecture: Config, name: str) -> None:
    if "multimodal_cfg" in architecture:
        raise ValueError(f"model {name!r} is a captioning model (CoCa), not a plain dual encoder")
    if "hf_model_name" in architecture["text_cfg"] or "hf_tokenizer_name" in architecture["text_cfg"]:
        raise ValueError(
            f"model {name!r} takes its text side from the Hugging Face hub: "
            "save it to a folder and load that with models.TransformersEncoder"
        )


def _build(architecture: Config) -> CLIP | CustomTextCLIP:
    arguments = copy.deepcopy(architecture)
    arguments["vision_cfg"]["timm_model_pretrained"] = False
    kind = CustomTextCLIP if arguments.pop("custom_text", False) else CLIP
    return kind(**arguments)
