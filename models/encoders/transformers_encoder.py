"""Dual encoders of the `transformers` library, from a folder on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from models.encoders.dual_encoder import DualEncoder
from models.preprocessing import Preprocessing
from models.text.end_token import up_to_longest_end
from models.text.tokenizer import build_tokenizer

KERNELS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Resize kernel by Pillow's number, which the image processor's settings contain."""
MODEL_TYPES = ("clip", "siglip")


class TransformersEncoder(DualEncoder):
    """A CLIP or SigLIP model from a ``save_pretrained`` folder. Nothing is downloaded.

    The preprocessing contract comes from the folder: image size, statistics and kernel from ``processor_config.json``
    (transformers 5) or ``preprocessor_config.json``, the tokenizer from its own files, the context length from
    ``config.json``.

    Args:
        folder: Folder with ``config.json``, one of those two files, tokenizer files and ``.safetensors`` weights.
        pretrained: Whether to load the weights; otherwise only the architecture is built.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: The model is of another type, has no safetensors weights, or resizes with a kernel that
            is neither bilinear nor bicubic; or the tokenizer is damaged or gives different texts the same tokens.
    """

    def __init__(self, folder: str, pretrained: bool = True) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel  # slow import, not needed by other encoders

        root = Path(folder)
        settings = root / "config.json"
        if not settings.is_file():
            raise FileNotFoundError(f"{settings}: no such file; give a folder that save_pretrained wrote")
        model_type = json.loads(settings.read_text(encoding="utf-8")).get("model_type")
        if model_type not in MODEL_TYPES:
            raise ValueError(
                f"{root}: model type {model_type!r} is not supported, only {' and '.join(MODEL_TYPES)}"
            )
        config = AutoConfig.from_pretrained(root, local_files_only=True, trust_remote_code=False)  # nosec B615  # a local folder
        if not pretrained:
            self.model = AutoModel.from_config(config, trust_remote_code=False)
        elif not any(root.glob("*.safetensors")):
            raise ValueError(
                f"{root}: no .safetensors weights; save them with model.save_pretrained(folder), "
                "pickled .bin files are not loaded"
            )
        else:
            self.model = AutoModel.from_pretrained(  # nosec B615  # a local folder
                root, local_files_only=True, use_safetensors=True, trust_remote_code=False
            ).float()
        self.folder = str(folder)
        width = config.projection_dim if model_type == "clip" else config.vision_config.hidden_size
        self.embed_dim = int(width)
        self.preprocessing = _contract(root, config.text_config.max_position_embeddings)
        build_tokenizer(self.preprocessing)  # reject a folder without a usable tokenizer now

    def image_features(self, image: Tensor) -> Tensor:
        return _pooled(self.model.get_image_features(pixel_values=image))

    def text_features(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] (int64) to unnormalised features [B, D].

        No attention mask is passed: CLIP's text tower is causal and pooled at the end token (so only the used columns
        are computed), and SigLIP was trained with visible padding.
        """
        return _pooled(self.model.get_text_features(input_ids=self._used(tokens)))

    def columns_of(self, tokens: Tensor) -> int:
        return self._used(tokens).shape[1]

    def _used(self, tokens: Tensor) -> Tensor:
        config = self.model.config
        if config.model_type != "clip":
            return tokens
        end_id = config.text_config.eos_token_id
        # transformers treats id 2 as "not set": such models pool at the largest id.
        return up_to_longest_end(tokens, None if end_id == 2 else end_id)

    @property
    def log_logit_scale(self) -> nn.Parameter:
        scale: nn.Parameter = self.model.logit_scale
        return scale

    @property
    def logit_bias(self) -> Tensor | None:
        bias: Tensor | None = getattr(self.model, "logit_bias", None)
        return None if bias is None else bias.reshape(())

    def init_args(self) -> dict[str, Any]:
        """Return the constructor arguments that rebuild the architecture; the folder must still be there."""
        return {"folder": self.folder, "pretrained": False}


def _pooled(features: Any) -> Tensor:
    pooled: Tensor = features.pooler_output
    return pooled


def _contract(root: Path, context_length: int) -> Preprocessing:
    from transformers import ImageProcessingMixin

    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(root, local_files_only=True)
    except OSError as error:
        raise FileNotFoundError(
            f"{root}: no preprocessor_config.json, and no image_processor in a processor_config.json; save one of them "
            "with processor.save_pretrained(folder)"
        ) from error
    kernel = values.get("resample", 3)
    if kernel not in KERNELS:
        raise ValueError(f"{root}: resample {kernel} is neither bilinear (2) nor bicubic (3)")
    size = values["crop_size"] if values.get("do_center_crop") else values["size"]
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    return Preprocessing(
        image_size=int(size),
        mean=tuple(values["image_mean"]),
        std=tuple(values["image_std"]),
        interpolation=KERNELS[kernel],
        tokenizer=f"hf:{root}",
        context_length=context_length,
    )
