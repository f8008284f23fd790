"""Quantisation-aware training: a fused student with the rounding of the exported int8 file.

Weights are signed with one scale per output channel, activations unsigned with one scale per tensor, whose range
is a moving average over training batches (Jacob et al. 2018, arXiv 1712.05877). Gradients pass the rounding
unchanged where a value is within range. `export.int8` writes the same ranges into an ONNX file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from models.encoders.dual_encoder import DualEncoder
from models.loading import build, from_checkpoint
from models.reparameterize import fused_copy

MOMENTUM = 0.05  # of the moving average: a few dozen batches
WEIGHT_LEVELS, ACTIVATION_LEVELS = 127, 255


class ActivationRange(nn.Module):
    """Round a tensor to 256 levels between a running minimum and maximum, which training updates.

    Returns its input unchanged before the first training batch.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(float("nan")))
        self.register_buffer("high", torch.tensor(float("nan")))

    def forward(self, values: Tensor) -> Tensor:
        """Return `values`, of any shape, rounded."""
        if self.training:
            self._update(values.detach())
        if not self.training and torch.isnan(self.low):
            return values
        scale = ((self.high - self.low) / ACTIVATION_LEVELS).clamp(min=torch.finfo(torch.float32).eps)
        zero = (-self.low / scale).round().int()
        return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, ACTIVATION_LEVELS)

    def _update(self, values: Tensor) -> None:
        # Zero must be one of the levels, because convolutions pad with it.
        low, high = values.amin().float().clamp(max=0), values.amax().float().clamp(min=0)
        first = self.low.isnan()  # no `if`, which would wait for a GPU
        self.low.copy_(torch.where(first, low, self.low.lerp(low, MOMENTUM)))
        self.high.copy_(torch.where(first, high, self.high.lerp(high, MOMENTUM)))


class QuantisedLayer(nn.Module):
    """Convolution or linear layer with rounded input, weight and, for a convolution, output."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.input_range = ActivationRange()
        self.output_range = ActivationRange() if isinstance(layer, nn.Conv2d) else None

    def forward(self, values: Tensor) -> Tensor:
        inputs, weight, bias = self.input_range(values), rounded_weight(self.layer.weight), self.layer.bias
        if not isinstance(self.layer, nn.Conv2d):
            return nn.functional.linear(inputs, weight, bias)
        assert self.output_range is not None
        output: Tensor = self.output_range(self.layer._conv_forward(inputs, weight, bias))
        return output


def rounded_weight(weight: Tensor) -> Tensor:
    """Round a weight [O, ...] to 255 levels per channel, symmetric around zero; gradients pass unchanged."""
    scale = weight.detach().flatten(1).abs().amax(dim=1) / WEIGHT_LEVELS
    scale = scale.clamp(min=torch.finfo(torch.float32).eps)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -WEIGHT_LEVELS, WEIGHT_LEVELS)


class QuantisedStudent(DualEncoder):
    """Fused student whose image tower continues training with int8 rounding.

    The text tower and the logit scale stay frozen, so that the heads of the float student remain valid. Batch norms
    that fusing left keep their running statistics.

    Args:
        checkpoint: The trained student to start from.
        recipe: Instead of a checkpoint: the student's own `DualEncoder.recipe`, without weights.
    """

    def __init__(self, checkpoint: str | None = None, recipe: dict[str, Any] | None = None) -> None:
        if (checkpoint is None) == (recipe is None):
            raise ValueError(
                "models.QuantisedStudent starts from a trained student; name it: "
                "make train EXP=srkd-qat STUDENT=outputs/srkd/RUN/checkpoints/best.ckpt"
            )
        base = build(recipe) if recipe is not None else from_checkpoint(str(checkpoint))
        if isinstance(base, QuantisedStudent):
            raise ValueError(f"{checkpoint}: already trained with int8 rounding; start from a float student")
        super().__init__()
        self.model = fused_copy(base)
        self.preprocessing, self.embed_dim = base.preprocessing, base.embed_dim
        self._recipe = base.recipe()
        for name in image_layers(self.model):
            layer: Any = self.model.get_submodule(name)
            layer.requires_grad_(True)
            self.model.set_submodule(name, QuantisedLayer(layer))

    def image_features(self, image: Tensor) -> Tensor:
        """Map images [B, 3, S, S] to unnormalised features [B, D].

        Raises:
            ValueError: The weights are not float32, the one precision in which torch computes int8 rounding.
        """
        dtype = self.log_logit_scale.dtype
        if dtype != torch.float32:
            raise ValueError(
                f"models.QuantisedStudent: int8 rounding needs weights in float32, not {dtype}; "
                "train it with --trainer.precision=32-true or a mixed precision"
            )
        return self.model.image_features(image)

    def text_features(self, tokens: Tensor) -> Tensor:
        return self.model.text_features(tokens)

    def columns_of(self, tokens: Tensor) -> int:
        return self.model.columns_of(tokens)

    @property
    def log_logit_scale(self) -> nn.Parameter:
        return self.model.log_logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        return self.model.logit_bias

    def train(self, mode: bool = True) -> Self:
        """Enable or disable updates of the activation ranges; the fused tower stays in eval mode.

        A frozen model stays in eval mode as a whole.
        """
        mode = mode and not self.frozen
        self.training = mode
        for module in self.modules():
            if isinstance(module, ActivationRange):
                module.training = mode
        return self

    def init_args(self) -> dict[str, Any]:
        return {"recipe": self._recipe}

    def layers(self) -> Iterator[tuple[str, QuantisedLayer]]:
        """Yield the quantised layers by name."""
        for name, module in self.model.named_modules():
            if isinstance(module, QuantisedLayer):
                yield name, module

    def float_copy(self) -> DualEncoder:
        """Return the fused student with these weights, without rounding, in eval mode."""
        plain = copy.deepcopy(self.model)
        plain.preprocessing = self.preprocessing
        for name, module in self.layers():
            plain.set_submodule(name, copy.deepcopy(module.layer))
        plain.requires_grad_(False)
        return plain


def image_layers(model: DualEncoder) -> list[str]:
    """Return the names of the convolutions and linear layers of the image path, in the model's order."""
    passed: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: passed.add(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    side = model.preprocessing.image_size
    device = next(model.parameters()).device
    with torch.no_grad():
        model.image_features(torch.zeros(1, 3, side, side, device=device))
    for hook in hooks:
        hook.remove()
    return [name for name, _ in model.named_modules() if name in passed]
