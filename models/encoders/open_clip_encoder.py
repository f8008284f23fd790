"""Dual encoders from open_clip configurations: FetalCLIP, MobileCLIP2-S0, or your own JSON file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities import rank_zero_info
from torch import Tensor, nn

from models.checkpoints.inspection import describe
from models.checkpoints.layouts import RELEASED_STUDENT, UNKNOWN, detect_layout, names_in, to_open_clip
from models.checkpoints.licences import licence_of
from models.checkpoints.weights import flatten, load_into, read_checkpoint
from models.encoders.dual_encoder import DualEncoder
from models.messages import one_line
from models.open_clip_config import build_open_clip, resolve_config
from models.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from models.text.end_token import end_token_features, end_token_tower, is_tracing, up_to_longest_end


class OpenCLIPEncoder(DualEncoder):
    """A CLIP model of open_clip, with weights from a local file. Nothing is downloaded.

    Args:
        name: ``MobileCLIP2-S0`` (the published student: context 117, ImageNet statistics), ``FetalCLIP``
            (the published teacher, ViT-L/14), another of open_clip's models, or the path of a JSON
            configuration in open_clip's format (bare, or under ``model_cfg`` beside ``preprocess_cfg``).
        weights: A local checkpoint in any layout of `models.checkpoints.layouts`; None starts from random weights.
        strict: Whether the weights must fit in every name and shape.
        context_length: Number of tokens of a text; None takes the configuration's. Weights of another
            length are resized linearly.
        image_size: Side of the square input, in pixels; None takes the configuration's.
        mean: Mean of each RGB channel, on the 0-1 scale; None takes the configuration's, or CLIP's.
        std: Standard deviation of each RGB channel, on the 0-1 scale; None as for `mean`.
        interpolation: Kernel of the antialiased resize; None takes the configuration's, or ``bicubic``.
        configuration: The configuration itself, used instead of the one that `name` finds (checkpoints store it).

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
        config = resolve_config(name, configuration, context_length, image_size, mean, std, interpolation)
        architecture, contract = config["model_cfg"], config["preprocess_cfg"]
        self.name = Path(name).name.removesuffix(".json")
        self.configuration = config
        self.embed_dim = int(architecture["embed_dim"])
        self.preprocessing = Preprocessing(
            image_size=architecture["vision_cfg"].get("image_size", 224),
            mean=tuple(contract.get("mean", CLIP_MEAN)),
            std=tuple(contract.get("std", CLIP_STD)),
            interpolation=contract.get("interpolation", "bicubic"),
            tokenizer="clip",
            context_length=architecture["text_cfg"].get("context_length", 77),
        )
        self.model = build_open_clip(architecture)
        if weights is not None:
            self.load(read_checkpoint(weights), weights, strict)

    def load(self, content: Mapping[str, Any], source: str, strict: bool = True) -> None:
        """Load a checkpoint (from `read_checkpoint`) of any known layout and log the licence of published weights."""
        state = flatten(content, source)
        try:
            converted = to_open_clip(state, self.model)
        except Exception as error:  # the converters look at no shapes
            raise ValueError(f"{source} does not fit {self.name}: {one_line(error)}") from error
        try:
            load_into(self.model, converted, source, strict, names_in(state, converted), self.name)
        except ValueError as error:
            held = describe(content, source).architecture
            if held in (self.name, UNKNOWN):
                raise
            raise ValueError(f"{error}; the file holds {held}") from error
        published = "MobileFetalCLIP" if detect_layout(state) == RELEASED_STUDENT else self.name
        rank_zero_info(f"{source}: licence of the published {published} weights: {licence_of(published)}")

    def image_features(self, image: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(image)
        return features

    def text_features(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] (int64) to unnormalised features [B, D].

        A causal tower (FetalCLIP's) computes the used columns only, and a tower with end-token pooling computes its
        last block at the end token only: the same features in less time.
        """
        tower = end_token_tower(self.model)
        # On a GPU tokens are cut before a compiled tower gets them; open_clip's own forward needs all columns.
        whole = tokens.shape[1] == self.preprocessing.context_length
        if tower is not None and not (is_tracing() and whole):
            return end_token_features(tower, tokens)
        features: Tensor = self.model.encode_text(tokens)
        return features

    def columns_of(self, tokens: Tensor) -> int:
        """Return how many columns of `tokens` [B, L] the text tower computes; a causal one stops at the last end."""
        tower = end_token_tower(self.model)
        cut = tower is not None and tower.attn_mask is not None
        return (up_to_longest_end(tokens) if cut else tokens).shape[1]

    @property
    def log_logit_scale(self) -> nn.Parameter:
        scale: nn.Parameter = self.model.logit_scale
        return scale

    @property
    def logit_bias(self) -> Tensor | None:
        bias: Tensor | None = self.model.logit_bias
        return bias

    def init_args(self) -> dict[str, Any]:
        return {"name": self.name, "configuration": copy.deepcopy(self.configuration)}
