"""Dual encoder of a `timm` image trunk and a small text transformer: the towers of the phantom presets."""

from __future__ import annotations

import math
from typing import Any, Literal

import timm
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from models.checkpoints.weights import load_weights, mismatch
from models.encoders import convstem_vit  # noqa: F401 - registers vit_convstem_femto with timm
from models.encoders.dual_encoder import DualEncoder
from models.messages import error_line
from models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from models.text.end_token import end_token_features, is_tracing, up_to_longest_end
from models.text.tokenizer import PAD_ID, number_families, token_range

INITIAL_LOG_SCALE = math.log(1 / 0.07)
"""CLIP's initial temperature (Radford et al. 2021, section 2.5)."""


class TimmEncoder(DualEncoder):
    """A `timm` image trunk and a pre-norm text transformer, both projected into one space.

    The text tower is open_clip's, pooled at the end token. Without `causal`, attention is bidirectional and padding is
    masked. Both projections and the text tower are initialised as CLIP's.

    Args:
        trunk: Name of a `timm` model, for example ``fastvit_t8``.
        trunk_args: Further arguments of that model, for example ``{"layers": [1, 1, 2, 1]}``.
        trunk_weights: A local file with weights in the trunk's own layout, with or without its classifier; None
            starts from random weights. Nothing is downloaded.
        embed_dim: Dimension D of the embeddings.
        image_size: Side of the square input, in pixels. Trunks with position embeddings are set to it.
        mean: Mean of each RGB channel, on the 0-1 scale.
        std: Standard deviation of each RGB channel, on the 0-1 scale.
        interpolation: Kernel of the antialiased resize.
        tokenizer: ``fetal`` or ``clip``. The latter's embedding of 49,408 entries is slow to train on a CPU.
        context_length: Number of tokens of a text.
        text_width: Width of the text transformer.
        text_layers: Its number of layers.
        text_heads: Its number of attention heads.
        causal: Whether a token sees only those before it.
        init_logit_bias: Initial value of a learned bias on the logits (sigmoid losses use -10); None for no bias.

    Raises:
        ValueError: `timm` has no such trunk, `trunk_args` do not fit it or the input, the weights do not fit it, or the
            tokenizer is a `transformers` one.
        FileNotFoundError: `trunk_weights` does not exist.
    """

    def __init__(
        self,
        trunk: str,
        trunk_args: dict[str, Any] | None = None,
        trunk_weights: str | None = None,
        embed_dim: int = 256,
        image_size: int = 112,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        interpolation: Literal["bilinear", "bicubic"] = "bicubic",
        tokenizer: str = "fetal",
        context_length: int = 48,
        text_width: int = 192,
        text_layers: int = 3,
        text_heads: int = 3,
        causal: bool = False,
        init_logit_bias: float | None = None,
    ) -> None:
        super().__init__()
        self._init_args = {
            name: value
            for name, value in locals().items()
            if name not in ("self", "__class__", "trunk_weights")
        } | {"mean": list(mean), "std": list(std)}
        self.embed_dim = embed_dim
        self.preprocessing = Preprocessing(image_size, mean, std, interpolation, tokenizer, context_length)
        self.trunk: nn.Module = _build_trunk(trunk, trunk_args or {}, trunk_weights, image_size)
        width = int(self.trunk.head_hidden_size)  # type: ignore[arg-type]  # every timm model has it
        self.image_projection = nn.Linear(width, embed_dim, bias=False)
        nn.init.normal_(self.image_projection.weight, std=width**-0.5)
        vocabulary_size, end_id = token_range(tokenizer)
        self.text = TextTransformer(
            context_length=context_length,
            vocab_size=vocabulary_size,
            width=text_width,
            heads=text_heads,
            layers=text_layers,
            output_dim=embed_dim,
            no_causal_mask=not causal,
            use_pad_mask=not causal,
            pad_id=PAD_ID,
            pool_type="eos",
            eos_id=end_id,
        )
        if tokenizer == "fetal":
            _order_numbers(self.text.token_embedding.weight)
        self.scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))
        self.bias = None if init_logit_bias is None else nn.Parameter(torch.tensor(float(init_logit_bias)))

    def image_features(self, image: Tensor) -> Tensor:
        features: Tensor = self.image_projection(self.trunk(image))
        return features

    def text_features(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] (int64) to unnormalised features [B, D]; the last block only at the end token."""
        used = tokens[:, : self.columns_of(tokens)]
        # On a GPU tokens are cut before a compiled tower gets them; open_clip's own forward needs all columns.
        whole = used.shape[1] == self.preprocessing.context_length
        features: Tensor = self.text(used) if is_tracing() and whole else end_token_features(self.text, used)
        return features

    def columns_of(self, tokens: Tensor) -> int:
        """Return how many columns of `tokens` [B, L] the tower computes: on a CPU, up to the last end token."""
        return up_to_longest_end(tokens, self.text.eos_id).shape[1]

    @property
    def log_logit_scale(self) -> nn.Parameter:
        return self.scale

    @property
    def logit_bias(self) -> Tensor | None:
        return self.bias

    def init_args(self) -> dict[str, Any]:
        return dict(self._init_args)


@torch.no_grad()
def _order_numbers(embedding: Tensor, waves: int = 16) -> None:
    """Initialise the embeddings of each family of number tokens on a smooth random curve.

    Neighbouring values start close together, so a small corpus also teaches ages and pixel spacings between those that
    it contains. The curves are cosines of falling amplitude along random directions, scaled to the embedding's norm.

    Args:
        embedding: Token embeddings [V, W] of the compact vocabulary, changed in place.
        waves: Number of cosines.
    """
    norm = embedding.norm(dim=1).mean()
    for family in number_families():
        place = torch.linspace(0, 1, len(family))[:, None]
        order = torch.arange(min(waves, len(family)))
        # The first wave is constant: the centre of the family.
        curve = torch.cos(torch.pi * order * place) / order.clamp(min=1).sqrt()
        points = curve @ torch.randn(len(order), embedding.shape[1])
        embedding[family] = points * (norm / points.norm(dim=1).mean())


def _build_trunk(name: str, arguments: dict[str, Any], weights: str | None, image_size: int) -> nn.Module:
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(f"timm has no model {name!r}; close names: {', '.join(close) or 'none'}")
    source: dict[str, Any] = {"pretrained": False}
    state: dict[str, Tensor] = {}
    if weights is not None:
        heads = timm.get_pretrained_cfg_value(name, "classifier") or ()
        prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
        state = {key: value for key, value in load_weights(weights).items() if not key.startswith(prefixes)}
        # timm converts its original layouts. If it had to drop the classifier itself, loading would not be strict, and
        # a file of another trunk would leave random weights.
        overlay = {"state_dict": dict(state), "classifier": None, "custom_load": False}
        source = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        trunk: nn.Module = timm.create_model(name, num_classes=0, **source, **arguments)
    except Exception as error:  # timm's models raise every kind
        if weights is None and arguments:
            raise ValueError(
                f"{name} cannot be built with trunk_args {arguments}: {error_line(error)}"
            ) from error
        if weights is None or not isinstance(error, RuntimeError):
            raise
        own = timm.create_model(name, num_classes=0, **arguments).state_dict()
        raise ValueError(f"{weights} does not fit {name}: {mismatch(own, state, {})}") from error
    if hasattr(trunk, "set_input_size"):
        trunk.set_input_size(img_size=image_size)  # type: ignore[operator]
    if arguments:
        _try_trunk(
            trunk, f"{name} with trunk_args {arguments} at {image_size} x {image_size} pixels", image_size
        )
    return trunk


@torch.no_grad()
def _try_trunk(trunk: nn.Module, case: str, image_size: int) -> None:
    """Run a trunk once: timm builds layers of no channels, and trunks of too few stages, without an error."""
    try:
        features = trunk.eval()(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:
        raise ValueError(f"{case} cannot read an image: {error_line(error)}") from error
    trunk.train()
    if features.shape != (1, trunk.head_hidden_size):
        raise ValueError(
            f"{case}: its output for one image has shape {tuple(features.shape[1:])}, not ({trunk.head_hidden_size},)"
        )
