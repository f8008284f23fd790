"""Parameters and multiply-accumulates of the paper's towers, compared with the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from models import OpenCLIPEncoder
from models.cost import Cost, image_cost

PAPER_GMACS = {"MobileCLIP2-S0": 1.2, "FetalCLIP": 38.9}
OTHER_COUNTERS_GMACS = {"MobileCLIP2-S0": 2.39, "FetalCLIP": 77.8}


def published_costs() -> dict[str, Cost]:
    """Return the costs of the paper's student and teacher, counted without weights."""
    with torch.device("meta"):
        return {name: image_cost(OpenCLIPEncoder(name).eval()) for name in PAPER_GMACS}


def explain(costs: Mapping[str, Cost]) -> list[str]:
    """Return a note per model and one that relates them to the paper's figures."""
    lines = [
        f"{name}: {cost.parameters / 1e6:.1f} M parameters (both towers); image tower {cost.gmacs:.2f} GMACs measured, "
        f"{cost.attention_gmacs:.2f} of them in attention's products of activations, so "
        f"{cost.gmacs - cost.attention_gmacs:.2f} without (other counters: {OTHER_COUNTERS_GMACS[name]}); "
        f"the paper prints {PAPER_GMACS[name]}"
        for name, cost in costs.items()
    ]
    return [
        *lines,
        "The paper's GMACs are half of the usual count for both models, as if multiply-accumulates had been "
        "taken for floating-point operations and halved once more. The ratio of the models is the same.",
    ]
