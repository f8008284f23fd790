"""Evaluation context of a model: eval mode, no gradients, float32; and the random-weights baseline."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.encoders.dual_encoder import DualEncoder, in_eval_mode
from models.zero_shot import without_tf32


@contextmanager
def evaluation_mode(model: DualEncoder) -> Iterator[DualEncoder]:
    """Yield a model in eval mode without gradients; all modules' modes are restored afterwards.

    Scores are comparable in any precision of training: no autocast, no TF32, and a float32 copy of a model that is
    kept in half precision.
    """
    half = any(p.is_floating_point() and p.dtype != torch.float32 for p in model.parameters())
    used = copy.deepcopy(model).float() if half else model
    device = next(model.parameters()).device.type
    with in_eval_mode(used), torch.no_grad(), without_tf32(), torch.autocast(device, enabled=False):
        yield used


def random_twin(model: DualEncoder, seed: int) -> DualEncoder:
    """Build a model's architecture with random weights of a seed, on its device, in eval mode.

    The global random state does not change.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        twin = type(model)(**model.init_args())
    return twin.to(next(model.parameters()).device).eval()
