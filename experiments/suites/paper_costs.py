"""Parameters and multiply-accumulates of the paper's towers, compared with the paper's figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from models import DualEncoder, OpenCLIPEncoder

PAPER_GMACS = {"MobileCLIP2-S0": 1.2, "FetalCLIP": 38.9}
OTHER_COUNTERS_GMACS = {"MobileCLIP2-S0": 2.39, "FetalCLIP": 77.8}
# Products of activations: query with key, and attention with value.
_ACTIVATION_PRODUCTS = ("bmm", "baddbmm", "attention")


class Cost(NamedTuple):
    """Cost of a model.

    Attributes:
        name: Name of the model.
        image_size: Side of its input in pixels.
        parameters: Number of parameters of both towers.
        gmacs: 10^9 multiply-accumulates of the image tower for one image.
        attention_gmacs: Part of `gmacs` in products of activations, which counters of weighted layers omit.
    """

    name: str
    image_size: int
    parameters: int
    gmacs: float
    attention_gmacs: float


def tower_cost(model: DualEncoder, name: str) -> Cost:
    """Count the multiply-accumulates of an image tower; one is two floating-point operations of the counter.

    Args:
        model: In eval mode on the meta device: nothing is computed, and attention is decomposed into products.
        name: Name for the result.

    Raises:
        ValueError: The model is on another device, where fused attention is not counted.
    """
    device = next(model.parameters()).device
    if device.type != "meta":
        raise ValueError(f"{name}: is on {device}; costs are counted on the meta device")
    size = model.preprocessing.image_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.image_features(torch.empty(1, 3, size, size, device=device))
    products = sum(
        count
        for operation, count in counter.get_flop_counts()["Global"].items()
        if any(part in str(operation) for part in _ACTIVATION_PRODUCTS)
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(name, size, parameters, counter.get_total_flops() / 2e9, products / 2e9)


def published_costs() -> list[Cost]:
    """Return the costs of the paper's student and teacher, counted without weights on the meta device."""
    with torch.device("meta"):
        return [tower_cost(OpenCLIPEncoder(name).eval(), name) for name in PAPER_GMACS]


def explain(costs: Sequence[Cost]) -> list[str]:
    """Return a note per model and one that relates them to the paper's figures."""
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
