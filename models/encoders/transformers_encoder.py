"""Dual encoders of the `transformers` library, from a folder on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from math import isclose
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from models.checkpoints.weights import listed
from models.encoders.dual_encoder import DualEncoder
from models.messages import error_line
from models.preprocessing import Preprocessing
from models.text.end_token import up_to_longest_end
from models.text.tokenizer import build_tokenizer, largest_id

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
        ValueError: The folder is damaged, or its model of another type; weights are not safetensors, or do not fit
            ``config.json``; images are not resized to the model's size by a bilinear or bicubic kernel, scaled by 1/255
            and normalised; the tokenizer gives different texts the same tokens, or ids beyond the model's vocabulary.
    """

    def __init__(self, folder: str, pretrained: bool = True) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel, logging  # slow import, not needed by other encoders

        logging.set_verbosity_error()  # its report of weights that do not fit; `_check_weights` refuses them
        logging.disable_progress_bar()
        root = Path(folder)
        settings = root / "config.json"
        if not settings.is_file():
            raise FileNotFoundError(f"{settings}: no such file; give a folder that save_pretrained wrote")
        with _readable(settings):
            config = AutoConfig.from_pretrained(root, local_files_only=True, trust_remote_code=False)  # nosec B615  # a local folder
        if config.model_type not in MODEL_TYPES:
            raise ValueError(
                f"{root}: model type {config.model_type!r} is not supported, only {' and '.join(MODEL_TYPES)}"
            )
        if not pretrained:
            self.model = AutoModel.from_config(config, trust_remote_code=False).float()
        elif not any(root.glob("*.safetensors")):
            raise ValueError(
                f"{root}: no .safetensors weights; save them with model.save_pretrained(folder), "
                "pickled .bin files are not loaded"
            )
        else:
            with _readable(root):
                model, found = AutoModel.from_pretrained(  # nosec B615  # a local folder
                    root, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                    output_loading_info=True, ignore_mismatched_sizes=True,
                )  # fmt: skip
            _check_weights(root, found)
            self.model = model.float().train()  # transformers loads in eval mode
        self.folder = str(folder)
        text, vision = config.text_config, config.vision_config
        self.embed_dim = int(config.projection_dim if config.model_type == "clip" else vision.hidden_size)
        self.preprocessing = _contract(root, vision.image_size, text.max_position_embeddings)
        build_tokenizer(self.preprocessing)  # reject a folder without a usable tokenizer now
        if (largest := largest_id(root)) >= text.vocab_size:
            raise ValueError(
                f"{root}: the tokenizer has ids up to {largest}, the model {text.vocab_size} tokens; "
                "save the model's own tokenizer with tokenizer.save_pretrained(folder)"
            )

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


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name the file or folder of an error; damaged files can raise anything."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read ({error_line(error)}); save the model again with model.save_pretrained(folder)"
        ) from error


def _check_weights(root: Path, found: Mapping[str, Collection[Any]]) -> None:
    """Refuse weights that do not fit, which transformers would leave random or leave out."""
    shapes = [f"{name} {[*theirs]} for {[*ours]}" for name, theirs, ours in found["mismatched_keys"]]
    differences = listed({
        "missing": sorted(found["missing_keys"]),
        "unexpected": sorted(found["unexpected_keys"]),
        "of another shape": sorted(shapes),
    })  # fmt: skip
    if differences:
        raise ValueError(f"{root}: the weights do not fit config.json: {differences}")


def _contract(root: Path, image_size: int, context_length: int) -> Preprocessing:
    from transformers import ImageProcessingMixin

    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(root, local_files_only=True)
    except OSError as error:
        raise FileNotFoundError(
            f"{root}: no preprocessor_config.json, and no image_processor in a processor_config.json; save one of them "
            "with processor.save_pretrained(folder)"
        ) from error
    # null stands for the library's default
    values = {name: value for name, value in values.items() if value is not None}
    side = "crop_size" if values.get("do_center_crop") else "size"
    absent = [name for name in (side, "image_mean", "image_std") if name not in values]
    if absent:
        raise ValueError(
            f"{root}: the image processor's settings lack {', '.join(absent)}; save them with "
            "processor.save_pretrained(folder)"
        )
    kernel, size = values.get("resample", 3), values[side]
    if kernel not in KERNELS:
        raise ValueError(f"{root}: resample {kernel} is neither bilinear (2) nor bicubic (3)")
    if {*(size.values() if isinstance(size, dict) else [size])} - {None} != {image_size}:
        raise ValueError(f"{root}: {side} {size} of the image processor is not the model's {image_size}")
    scaled = values.get("do_rescale", True) and isclose(
        values.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-3
    )
    if not (scaled and values.get("do_normalize", True)):
        raise ValueError(
            f"{root}: do_rescale, rescale_factor or do_normalize of the image processor is not supported; only pixels "
            "divided by 255 and normalised are"
        )
    # The library takes one number for all channels, too.
    given = (values["image_mean"], values["image_std"])
    mean, std = (tuple(one) if isinstance(one, list) else (one,) * 3 for one in given)
    return Preprocessing(
        image_size=image_size,
        mean=mean,
        std=std,
        interpolation=KERNELS[kernel],
        tokenizer=f"hf:{root}",
        context_length=context_length,
    )
