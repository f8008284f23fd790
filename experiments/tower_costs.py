"""What the paper's image towers cost: parameters, and multiply-accumulates of one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from models import DualEncoder, OpenCLIPEncoder

PAPER_GMACS = {"MobileCLIP2-S0": 1.2, "FetalCLIP": 38.9}
OTHER_COUNTERS_GMACS = {"MobileCLIP2-S0": 2.39, "FetalCLIP": 77.8}
# Products of activations with activations: query with key, and attention with value.
_ACTIVATION_PRODUCTS = ("bmm", "baddbmm", "attention")


@dataclass(frozen=True)
class Cost:
    """Cost of a model.

    Attributes:
        name: The model's name.
        image_size: Side of its input in pixels.
        parameters: Of both towers.
        gmacs: Billions of multiply-accumulates of the image tower for one image.
        attention_gmacs: The part of `gmacs` in products of activations, which counters that look at layers
            with weights leave out.
    """

    name: str
    image_size: int
    parameters: int
    gmacs: float
    attention_gmacs: float


def image_cost(model: DualEncoder, name: str) -> Cost:
    """Count the multiply-accumulates of a model's image tower with `torch.utils.flop_counter`.

    Args:
        model: In eval mode, on the meta device: nothing is computed there, and attention falls apart into
            products that the counter knows.
        name: What to call it.

    Returns:
        The cost; one multiply-accumulate is two of the counter's floating-point operations.

    Raises:
        ValueError: The model is on another device, where fused attention would go uncounted.
    """
    device = next(model.parameters()).device
    if device.type != "meta":
        raise ValueError(f"{name}: is on {device}; costs are counted on the meta device")
    size = model.preprocessing.image_size
    image = torch.empty(1, 3, size, size, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.image_features(image)
    operations = counter.get_flop_counts()["Global"]
    products = sum(
        count
        for operation, count in operations.items()
        if any(part in str(operation) for part in _ACTIVATION_PRODUCTS)
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(name, size, parameters, counter.get_total_flops() / 2e9, products / 2e9)


def published_costs() -> list[Cost]:
    """Measure the paper's student and teacher, without weights and without computing anything."""
    with torch.device("meta"):
        return [image_cost(OpenCLIPEncoder(name).eval(), name) for name in PAPER_GMACS]


def explain(costs: list[Cost]) -> list[str]:
    """Say what was measured and how it relates to the paper's figures: a line a model, and a summary."""
    lines = [
        f"{cost.name} at {cost.image_size} px: {cost.parameters / 1e6:.1f} M parameters (both towers); image "
        f"tower {cost.gmacs:.2f} GMACs measured, {cost.attention_gmacs:.2f} of them in attention's products "
        f"of activations, so {cost.gmacs - cost.attention_gmacs:.2f} without (other counters: "
        f"{OTHER_COUNTERS_GMACS[cost.name]}); the paper prints {PAPER_GMACS[cost.name]}"
        for cost in costs
    ]
    return [
        *lines,
        "The paper's GMACs are half of the usual count for both models, as if multiply-accumulates had been "
        "taken for floating-point operations and halved once more. The ratio of the models is the same.",
    ]
