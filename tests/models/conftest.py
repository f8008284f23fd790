"""Small towers for the tests of this room."""

from __future__ import annotations

import functools

import pytest
import torch

from models import OpenCLIPEncoder, TimmEncoder

SMALL_TEXT = {"text_width": 32, "text_layers": 1, "text_heads": 2, "context_length": 16, "embed_dim": 24}
REPVIT = {"trunk": "repvit_m0_9", "trunk_args": {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]}}
FASTVIT = {"trunk": "fastvit_t8", "trunk_args": {"embed_dims": [8, 16, 32, 64], "layers": [1, 1, 1, 1]}}
VIT = {"trunk": "vit_tiny_patch16_224", "trunk_args": {"depth": 2, "embed_dim": 32, "num_heads": 2}}


def small(trunk: dict, **overrides) -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder(**{**trunk, **SMALL_TEXT, "image_size": 64, **overrides})


@functools.cache
def published(name: str) -> OpenCLIPEncoder:
    """A published model in its real size without numbers, on the meta device; tests must not change it."""
    with torch.device("meta"):
        return OpenCLIPEncoder(name).eval()


@pytest.fixture
def vit() -> TimmEncoder:
    return small(VIT)


@pytest.fixture
def repvit() -> TimmEncoder:
    return small(REPVIT)
