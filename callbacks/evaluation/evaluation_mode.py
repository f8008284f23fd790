"""Evaluation context of a model: eval mode, no gradients, precision; and the random-weights baseline."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from lightning import Trainer

from models import DualEncoder
from models.zero_shot import without_tf32


@contextmanager
def evaluation_mode(
    model: DualEncoder, full_precision: bool = True, half: torch.dtype | None = None
) -> Iterator[DualEncoder]:
    """Yield a model, or its float32 copy, in eval mode without gradients; all modules' modes are restored afterwards.

    Args:
        model: The model.
        full_precision: Compute in float32 in any case: no autocast, no TF32, and a float32 copy
            of a model that is kept in half precision.
        half: Autocast dtype without `full_precision`: Lightning has no autocast in hooks, where evaluation runs
            (see `half_dtype`). None for weights that are in half precision already.
    """
    used = _in_float32(model) if full_precision else model
    modes = [(module, module.training) for module in used.modules()]
    used.eval()
    device = next(model.parameters()).device.type
    try:
        with ExitStack() as contexts:
            contexts.enter_context(torch.no_grad())
            if full_precision:
                contexts.enter_context(without_tf32())
                contexts.enter_context(torch.autocast(device, enabled=False))
            elif half is not None:
                contexts.enter_context(torch.autocast(device, half))
            yield used
    finally:
        for module, mode in modes:
            module.training = mode


def _in_float32(model: DualEncoder) -> DualEncoder:
    half = any(p.is_floating_point() and p.dtype != torch.float32 for p in model.parameters())
    return copy.deepcopy(model).float() if half else model


def half_dtype(trainer: Trainer) -> torch.dtype | None:
    """Return the half precision of a trainer's steps, None for float32 and float64."""
    kinds = {"16": torch.float16, "bf16": torch.bfloat16}
    return kinds.get(str(trainer.precision).split("-")[0])


def check_half_precision(callback: str, full_precision: bool, trainer: Trainer) -> None:
    """Check that training has the half precision that evaluation asks for."""
    if not full_precision and half_dtype(trainer) is None:
        raise ValueError(
            f"{callback}: full_precision=false evaluates in training's half precision, and "
            f"--trainer.precision={trainer.precision} has none; set --trainer.precision=bf16-mixed, or remove it"
        )


def random_twin(model: DualEncoder, seed: int) -> DualEncoder:
    """Build a model's architecture with random weights of a seed, on its device, in eval mode.

    The global random state does not change.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        twin = type(model)(**model.init_args())
    return twin.to(next(model.parameters()).device).eval()
